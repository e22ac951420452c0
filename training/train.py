"""Train the demo model: from pictures and captions to a model folder.

$ python -m training.train training/configs/demo.yaml
$ python -m training.train training/configs/demo.yaml epochs=3 run=runs/try out=runs/try/model
$ python -m training.train training/configs/demo.yaml resume=true     # after Ctrl-C, which saves

Every setting is explained in training/settings.py.
"""

import copy
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from model_src.errors import PrelimError
from model_src.model_folder import build_network
from training.augment import augment
from training.captioning import caption_images
from training.curves import plot_curves
from training.datasets.open_radiology import DatasetError, cache_images, read_records, read_templates
from training.label_head import LabelHead
from training.labels import LabelReader, Labels
from training.model_folder import describe, write_config, write_folder
from training.optimisation import learning_rate, make_optimizer, update_ema
from training.scores import label_scores
from training.settings import Settings, SettingsError, read_settings
from training.wordpiece import PAD, make_tokenizer


def caption_table(labels: list[Labels], templates: dict[Labels, tuple[str, ...]], tokenizer: Tokenizer) -> Tensor:
    """Token ids of every right caption, shape (labels, captions, length), padded."""
    captions = [tokenizer.encode(caption).ids for label in labels for caption in templates[label]]
    length = max(map(len, captions))
    padded = [ids + [PAD] * (length - len(ids)) for ids in captions]
    return torch.tensor(padded).view(len(labels), -1, length)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM append to: a step in progress ends whole, then the loop looks at it."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(settings: Settings) -> bool:  # noqa: PLR0915 - one loop, read from top to bottom
    """Train, validate and write the model folder. False if it was stopped before; then the checkpoint is written."""
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(settings.seed)  # initial weights and dropout
    generator = Generator().manual_seed(settings.seed)  # order, augmentation and choice of captions
    run, data = Path(settings.run), Path(settings.data)

    # data
    templates = read_templates(data)
    reader = LabelReader(templates)
    records, val_records = read_records(data, "train"), read_records(data, "val")
    labels = sorted({record.labels for record in records})
    label_of = torch.tensor([labels.index(record.labels) for record in records])
    tokenizer = make_tokenizer((caption for label in labels for caption in templates[label]), settings.vocab_size)
    captions = caption_table(labels, templates, tokenizer)
    images = cache_images(records, settings.cache_size)

    # network
    description = describe(settings, tokenizer.get_vocab_size())
    config = write_config(run, description)
    network = build_network(config)
    network.vision.to(memory_format=torch.channels_last)  # convolves twice as fast here
    for module in network.vision.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = settings.batch_norm_momentum
    head = LabelHead(network.vision.width, labels)
    model = nn.ModuleDict({"network": network, "head": head}).train()
    ema = copy.deepcopy(network).eval()
    optimizer = make_optimizer(model, settings)
    steps_per_epoch = len(records) // settings.batch_size
    steps = steps_per_epoch * settings.epochs
    small_steps = steps_per_epoch * settings.small_epochs
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {len(records)} pictures, {steps} steps")

    # where an earlier session stopped
    step, seconds, history = 0, 0.0, []
    order = torch.empty(0, dtype=torch.int64)
    checkpoint = run / "checkpoint.pt"
    if settings.resume:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        order, step, seconds, history = state["order"], state["step"], state["seconds"], state["history"]

    begin, first, stopped = time.monotonic(), step, False
    bar = tqdm(total=steps, initial=step, unit="step", smoothing=0.02, mininterval=2)
    with stop_signals() as received:
        while step < steps and not stopped:
            # a batch
            position = step % steps_per_epoch * settings.batch_size
            if position == 0:
                order = torch.randperm(len(records), generator=generator)
            chosen = order[position : position + settings.batch_size]
            label = label_of[chosen]
            size = settings.small_image_size if step < small_steps else settings.image_size
            pixels = (augment(images[chosen], size, settings, generator) - settings.mean) / settings.std
            pixel_values = pixels[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
            told = settings.captions_per_batch  # the order is random, so the first few are a fair choice
            template = torch.randint(captions.shape[1], (told,), generator=generator)
            token_ids = captions[label[:told], template]
            token_ids = token_ids[:, : int((token_ids != PAD).sum(dim=1).max())]

            # forward, backward
            image_features = network.vision(pixel_values)
            label_loss, group_loss = head.losses(head(image_features), label, settings.label_smoothing)
            logits = network.decoder(network.connector(image_features[:told]), token_ids[:, :-1])
            caption_loss = cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten(), ignore_index=PAD)
            loss = (
                settings.caption_weight * caption_loss
                + settings.label_weight * label_loss
                + settings.group_weight * group_loss
            )
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, steps_per_epoch, settings)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            update_ema(ema, network, step, settings.ema_decay)

            # what the bar, the log and the curves show
            row = [step / steps_per_epoch, caption_loss.item(), label_loss.item(), group_loss.item()]
            bar.set_postfix(epoch=f"{row[0]:.1f}", loss=f"{loss.item():.3f}", caption=f"{row[1]:.3f}", refresh=False)
            bar.update()
            due = step % (steps_per_epoch * settings.validate_every) == 0
            if due or step == steps:
                said, _ = caption_images(ema, tokenizer, config, [record.image for record in val_records])
                scores = label_scores([reader.read(caption)[0] for caption in said], val_records)
                row += [scores["modality_anatomy"], scores["finding_group"]]
                tqdm.write(json.dumps({"epoch": round(row[0], 2), **scores}))
            history.append(row)

            # stop and save
            stopped = bool(received) or step - first == settings.stop_after
            if stopped or due or step == steps:
                state = {
                    "model": model.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "torch_rng": torch.get_rng_state(),
                    "order": order,
                    "step": step,
                    "seconds": seconds + time.monotonic() - begin,
                    "history": history,
                }
                part = checkpoint.with_suffix(".part")
                torch.save(state, part)
                part.replace(checkpoint)  # a crash while saving leaves the last one whole
    bar.close()

    if step < steps:
        print(f"stopped after step {step} of {steps}; go on with resume=true")
        return False
    write_folder(Path(settings.out), description, ema.state_dict(), tokenizer)
    summary = {"settings": settings.as_dict(), "seconds": round(state["seconds"]), "steps": steps}
    (run / "training.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    plot_curves(history, run / "curves.png")
    print(f"{settings.out} written after {state['seconds'] / 60:.1f} minutes; curves in {run / 'curves.png'}")
    return True


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        train(read_settings(sys.argv[1], sys.argv[2:]))
    except (SettingsError, DatasetError, PrelimError) as error:
        sys.exit(str(error))
