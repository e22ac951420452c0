"""Everything that a run needs, made from its settings."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from prelim.networks.architectures.architecture import Network
from training.data.batches import ImageSource, MicroBatches
from training.data.examples import Example, Examples, read_examples
from training.data.features import EmbeddedFeatures, Features
from training.data.images import UNCHANGED, Images
from training.data.report_tokens import ReportTokens
from training.datasets.trained_on import TrainedOn, hash_pictures, read_trained_on, summarize
from training.network.losses import LabelClasses, LabelHead, Objective
from training.network.starting_model import StartingModel, starting_model
from training.network.trainable import add_adapters, checkpoint_gradients, freeze, parameter_count
from training.run.model_card import Counts
from training.settings import Settings, SettingsError


@dataclass(frozen=True)
class Prepared:
    """A run before its first step.

    model    : as it begins
    objective : its network, with what is frozen, adapted and added
    train, val : micro-batches; those of `val` are none where there is nothing to validate with
    counts   : of the examples
    studies, chosen : marks of those to train on and to choose the weights on
    images   : to train on; none where the data set has features instead
    data     : a hash of all examples: a run is resumed on the data that it began with
    steps_per_epoch, steps : of all processes together
    """

    model: StartingModel
    objective: Objective
    train: MicroBatches
    val: MicroBatches
    counts: Counts
    studies: frozenset[str]
    chosen: frozenset[str]
    images: tuple[Path, ...]
    data: str
    steps_per_epoch: int
    steps: int


def prepare(settings: Settings, processes: int, *, main: bool) -> Prepared:
    """Read the data and build the network.

    main : progress is shown and counts are printed

    Raises PrelimError: SettingsError, DatasetError, ArchiveError.
    """
    o = settings.optimization
    data = read_examples(settings.dataset)
    train, val = data.train, data.val
    if data.embedded and not settings.start.weights:
        raise SettingsError(
            f"{settings.dataset.path} has features instead of images, and start.weights is not set; give the model "
            "folder whose encoder they come from"
        )
    together = o.batch_size * o.accumulate * processes
    if len(train) < together:
        raise SettingsError(
            f"a step takes {together} examples (optimization.batch_size {o.batch_size} x accumulate {o.accumulate} x "
            f"{processes} processes), there are {len(train)} to train on; lower optimization.batch_size"
        )
    steps_per_epoch = len(train) // together
    steps = min(o.epochs * steps_per_epoch, o.max_steps or o.epochs * steps_per_epoch)

    torch.manual_seed(o.seed)  # initial weights
    model = starting_model(settings, (example.text for example in train))
    classes = LabelClasses(settings.auxiliary.labels, train)
    tokens = ReportTokens(model.config, model.tokenizer, settings.dataset.max_tokens)
    per_epoch = steps_per_epoch * o.accumulate * processes
    train_images, val_images = (
        EmbeddedFeatures([example.image for example in examples])
        if data.embedded
        else _open_images(settings, model, examples, train=examples is train, main=main)
        for examples in (train, val)
    )
    batches = MicroBatches(train, train_images, classes.of(train), tokens, settings, epoch=per_epoch)
    val_batches = MicroBatches(val, val_images, classes.of(val), tokens, settings)
    objective = _build_objective(settings, model, train_images, len(classes))
    if main:
        print(f"{steps} steps, {steps_per_epoch} an epoch")
        _print_summary(data, objective, model, tokens)
    return Prepared(
        model,
        objective,
        batches,
        val_batches,
        counts=Counts(len(train), len(val), sum(not example.patient for example in (*train, *val))),
        studies=frozenset(mark for example in train for mark in example.marks),
        chosen=frozenset(mark for example in val for mark in example.marks),
        images=() if data.embedded else tuple(example.image for example in train),
        data=summarize(mark for example in (*train, *val) for mark in example.marks),
        steps_per_epoch=steps_per_epoch,
        steps=steps,
    )


def record_studies(settings: Settings, prepared: Prepared) -> TrainedOn:
    """What the weights have learned from, in this run and in those that they come from."""
    start = settings.start.weights
    before = (read_trained_on(Path(start)) if start else None) or TrainedOn({}, frozenset())
    return TrainedOn(
        asdict(settings.dataset),
        prepared.studies | before.studies,
        prepared.chosen | before.chosen,
        hash_pictures(prepared.images, settings.dataset.frame) | before.pictures,
    )


def _print_summary(data: Examples, objective: Objective, model: StartingModel, tokens: ReportTokens) -> None:
    """Print what there is to train, and what of the data is not used."""
    train = data.train
    cut = sum(tokens.is_cut(example.text) for example in train)
    trained, all_numbers = parameter_count(objective.network)
    print(f"{len(train)} examples to train on, {len(data.val)} to validate with")
    print(f"{all_numbers:,} parameters, {trained:,} of them trained")
    for remark in data.remarks:
        print(remark)
    if not tokens.takes_prompts and any(example.prompt for example in train):
        print(f"{model.config.architecture} takes no prompts: those of the data set are not used")
    if cut:
        print(f"{cut} reports are longer than {tokens.max_tokens} tokens and are cut (dataset.max_tokens)")


def _open_images(
    settings: Settings, model: StartingModel, examples: list[Example], *, train: bool, main: bool
) -> ImageSource:
    paths = [example.image for example in examples]
    d = settings.dataset
    if d.features:
        return Features(Path(d.features), paths, d.image_root, model.config)
    changes = settings.augment if train else UNCHANGED
    return Images(paths, model.config, changes, frame=d.frame, cache=settings.run.cache, hidden=not main)


def _build_objective(settings: Settings, model: StartingModel, images: ImageSource, classes: int) -> Objective:
    network = model.network
    network.vision.to(memory_format=torch.channels_last)  # a CPU convolves twice as fast so
    given = images.name == "image_features"
    freeze(network, (*settings.freeze, *(("vision",) if given else ())))
    if given:
        _check_features(network, images)
    head = None
    if classes:
        first = images.take([0], torch.Generator())
        with torch.no_grad():
            features = first if given else network.vision.eval()(first)
        head = LabelHead(features.shape[-1], classes)
    if settings.lora.rank:
        half = settings.optimization.mixed_precision == "bf16"
        add_adapters(network.decoder, settings.lora, torch.bfloat16 if half else torch.float32)
    if settings.optimization.gradient_checkpointing:
        checkpoint_gradients(network)
    return Objective(network, head, settings.auxiliary)


def _check_features(network: Network, images: ImageSource) -> None:
    """Raises SettingsError where the network cannot take the features, which are of another encoder then."""
    features = images.take([0], torch.Generator())
    try:
        with torch.no_grad():
            network.connector.eval()(features)
    except (RuntimeError, ValueError, IndexError) as error:
        raise SettingsError(
            f"the features have shape {tuple(features.shape[1:])}, which the connector of start.weights cannot take "
            f"({error}); give the model whose encoder they come from"
        ) from error
