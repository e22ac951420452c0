"""Probe sentences for the rule labeler: the kinds that it once read wrongly, each in several wordings.

All were written for this test. A held-back set of other sentences of these kinds is tried by hand.
"""

from pathlib import Path

import pytest

from prelim.labels.labeler import FINDINGS, NO_FINDING, Labeler, State

LABELER = Labeler()

CARDIO, MEDIASTINUM, OPACITY, LESION, EDEMA = (
    "cardiomegaly", "enlarged cardiomediastinum", "lung opacity", "lung lesion", "edema",
)  # fmt: skip
CONSOLIDATION, PNEUMONIA, ATELECTASIS, PNEUMOTHORAX = "consolidation", "pneumonia", "atelectasis", "pneumothorax"
EFFUSION, FRACTURE, DEVICES = "pleural effusion", "fracture", "support devices"

UNCERTAIN = {
    "Cannot exclude pneumonia.": (PNEUMONIA,),
    "Cannot entirely exclude a small effusion.": (EFFUSION,),
    "We can not rule out a tiny pneumothorax.": (PNEUMOTHORAX,),
    "Can't exclude underlying consolidation.": (CONSOLIDATION,),
    "Could not exclude a rib fracture.": (FRACTURE,),
    "Unable to exclude superimposed infection.": (PNEUMONIA,),
    "It is not possible to exclude mild edema on this film.": (EDEMA,),
    "Difficult to completely exclude retrocardiac atelectasis.": (ATELECTASIS,),
    "This study does not exclude a nodule.": (LESION,),
    "Limited film; pneumothorax is not excluded.": (PNEUMOTHORAX,),
    "Underlying pneumonia can't be ruled out.": (PNEUMONIA,),
    "A small left effusion cannot be entirely excluded.": (EFFUSION,),
    "Bibasilar opacity, pneumonia not excluded.": (PNEUMONIA,),
    "Left base opacity, atelectasis or pneumonia.": (ATELECTASIS, PNEUMONIA),
    "Atelectasis or consolidation at the left base.": (ATELECTASIS, CONSOLIDATION),
    "Either pneumonia or atelectasis in the right lower lobe.": (PNEUMONIA, ATELECTASIS),
    "Atelectasis vs. pneumonia in the lingula.": (ATELECTASIS, PNEUMONIA),
    "Pneumonia versus edema.": (PNEUMONIA, EDEMA),
    "Retrocardiac density which may be atelectasis or early infiltrate.": (ATELECTASIS,),
    "Trace effusion, if any.": (EFFUSION,),
    "Pneumonia is less likely.": (PNEUMONIA,),
    "Findings could represent mild edema.": (EDEMA,),
    "Pneumonia should be considered.": (PNEUMONIA,),
    "Edema or potentially early pneumonia.": (PNEUMONIA,),
    "Doubtful pneumothorax.": (PNEUMOTHORAX,),
    "A left effusion is doubtful.": (EFFUSION,),
    "Rounded atelectasis is favored over mass.": (LESION,),
    "Atelectasis favored over pneumonia.": (PNEUMONIA,),
}

DOUBTED_ALTERNATIVES = {
    "Left base opacity, atelectasis or possibly pneumonia.": (ATELECTASIS, PNEUMONIA),
    "Atelectasis versus possible early pneumonia.": (ATELECTASIS, PNEUMONIA),
    "Edema or less likely pneumonia.": (EDEMA, PNEUMONIA),
    "Pneumonia or perhaps atelectasis.": (PNEUMONIA, ATELECTASIS),
}
"""The first finding is an alternative, which scores count; the second is doubted by a word of its own."""

NEGATIVE = {
    "Opacity unlikely to represent pneumonia.": (PNEUMONIA,),
    "This is unlikely to be a pneumothorax.": (PNEUMOTHORAX,),
    "Appearance is unlikely due to edema.": (EDEMA,),
    "Pneumonia is unlikely.": (PNEUMONIA,),
    "Pneumonia is considered unlikely.": (PNEUMONIA,),
    "Not consistent with pneumonia.": (PNEUMONIA,),
    "The central line has been removed.": (DEVICES,),
    "Endotracheal tube has since been removed.": (DEVICES,),
    "The right chest tube was removed.": (DEVICES,),
    "Interval removal of the left PICC.": (DEVICES,),
    "Status post removal of the pacemaker.": (DEVICES,),
    "The NG tube and the central catheter have been removed.": (DEVICES,),
    "Pacing wires have been explanted.": (DEVICES,),
    "No pneumothorax or effusion.": (PNEUMOTHORAX, EFFUSION),
    "No pneumothorax, effusion, or consolidation.": (PNEUMOTHORAX, EFFUSION, CONSOLIDATION),
    "No pneumothorax, large effusion, or focal consolidation.": (PNEUMOTHORAX, EFFUSION, CONSOLIDATION),
    "Without consolidation, effusion or edema.": (CONSOLIDATION, EFFUSION, EDEMA),
    "No focal consolidation, pleural effusion, or pneumothorax is seen.": (CONSOLIDATION, EFFUSION, PNEUMOTHORAX),
    "Neither effusion nor pneumothorax.": (EFFUSION, PNEUMOTHORAX),
    "Pneumothorax or effusion is not seen.": (PNEUMOTHORAX, EFFUSION),
    "Pneumothorax: none.": (PNEUMOTHORAX,),
    "Pleural effusion: no.": (EFFUSION,),
    "There is no longer a pneumothorax.": (PNEUMOTHORAX,),
    "The effusion is no longer seen.": (EFFUSION,),
    "The previously seen effusion has completely resolved.": (EFFUSION,),
    "No new consolidation.": (CONSOLIDATION,),
    "The heart is not enlarged.": (CARDIO,),
    "Heart size is normal and the aorta is enlarged.": (CARDIO,),
    "Heart size is normal with a dilated, tortuous aorta.": (CARDIO,),
    "Cardiomediastinal silhouette is normal with a tortuous aorta.": (MEDIASTINUM,),
    "The mediastinum is unremarkable, the aorta is ectatic.": (MEDIASTINUM,),
    "No fracture or dislocation.": (FRACTURE,),
    "Evaluation shows no evidence of CHF.": (EDEMA,),
    "Heart is not enlarged.": (CARDIO,),
    "No effusion. Stable right lung.": (EFFUSION,),
    "No effusion, pneumothorax, or consolidation seen on the left.": (EFFUSION, PNEUMOTHORAX, CONSOLIDATION),
    "Complete resolution of the effusion.": (EFFUSION,),
    "Lines and tubes: none.": (DEVICES,),
    "Support devices: none.": (DEVICES,),
    "Swan-Ganz catheter has been pulled.": (DEVICES,),
    "Interval discontinuation of the right IJ line.": (DEVICES,),
    "Chest tube is out.": (DEVICES,),
    "Chest tube removed.": (DEVICES,),
    "Endotracheal tube is no longer in place.": (DEVICES,),
    "IABP catheter has been discontinued.": (DEVICES,),
    "S/p pneumothorax drainage, no residual pneumothorax.": (PNEUMOTHORAX,),
    "Nodular opacity likely representing nipple shadow.": (LESION,),
    "A nodular density at the right base is probably a nipple shadow.": (LESION,),
    "Bilateral nodular densities, most likely nipples.": (LESION,),
    "Nodular opacities are due to overlying ECG electrodes.": (LESION,),
}

POSITIVE = {
    "Left chest wall generator with two leads.": (DEVICES,),
    "Dual-chamber pacing device in place.": (DEVICES,),
    "Leads terminate in the right atrium and ventricle.": (DEVICES,),
    "A spinal stimulator projects over the thoracic spine.": (DEVICES,),
    "Single lead with its tip in the right ventricle.": (DEVICES,),
    "Battery pack of a nerve stimulator on the left.": (DEVICES,),
    "Right chest port with tip in the SVC.": (DEVICES,),
    "Two chest drains on the right.": (DEVICES,),
    "Intra-aortic balloon pump in satisfactory position.": (DEVICES,),
    "The line has been replaced.": (DEVICES,),
    "No pneumothorax, a small effusion is present.": (EFFUSION,),
    "No pneumothorax, consolidation is present.": (CONSOLIDATION,),
    "No consolidation, mild edema is noted.": (EDEMA,),
    "No focal consolidation, there is a small effusion.": (EFFUSION,),
    "No edema and there is left basilar atelectasis.": (ATELECTASIS,),
    "No pneumothorax is seen and a small effusion persists.": (EFFUSION,),
    "No effusion, the heart is enlarged.": (CARDIO,),
    "No effusion and the heart is enlarged.": (CARDIO,),
    "No effusion is seen, pulmonary edema is mild.": (EDEMA,),
    "No consolidation, effusion has increased.": (EFFUSION,),
    "No pneumothorax with stable effusion.": (EFFUSION,),
    "No pneumothorax with unchanged small left effusion.": (EFFUSION,),
    "No edema with persistent bibasilar atelectasis.": (ATELECTASIS,),
    "No consolidation with a moderate right pleural effusion.": (EFFUSION,),
    "No pneumothorax, with stable cardiomegaly.": (CARDIO,),
    "No effusion on the right, small effusion on the left.": (EFFUSION,),
    "No pneumothorax on the left, tiny pneumothorax on the right.": (PNEUMOTHORAX,),
    "No right pleural effusion, moderate left pleural effusion.": (EFFUSION,),
    "No consolidation on the right, patchy consolidation on the left.": (CONSOLIDATION,),
    "No pneumothorax on the left while a small pneumothorax remains on the right.": (PNEUMOTHORAX,),
    "Small effusion on the left, pneumothorax is not seen.": (EFFUSION,),
    "There is a small effusion, no pneumothorax is seen.": (EFFUSION,),
    "The effusion has not resolved.": (EFFUSION,),
    "The pneumothorax has not completely resolved.": (PNEUMOTHORAX,),
    "The consolidation has partially cleared.": (CONSOLIDATION,),
    "The effusion has nearly resolved.": (EFFUSION,),
    "No resolution of the pneumothorax.": (PNEUMOTHORAX,),
    "No significant interval change in the left effusion.": (EFFUSION,),
    "No improvement in the edema.": (EDEMA,),
    "Effusion has increased compared to prior.": (EFFUSION,),
    "Compared with the prior study, consolidation is worse.": (CONSOLIDATION,),
    "Prior effusion is unchanged.": (EFFUSION,),
    "Old healed rib fracture.": (FRACTURE,),
    "Cardiac silhouette is enlarged, mediastinum is normal.": (CARDIO,),
    "The mediastinum is widened.": (MEDIASTINUM,),
    "Nodule in the right upper lobe.": (LESION,),
    "A 2 cm mass in the left lower lobe adjacent to the chest wall.": (LESION,),
    "Atelectasis and effusion at the left base.": (ATELECTASIS, EFFUSION),
    "No effusion on the left; moderate on the right.": (EFFUSION,),
    "No pneumothorax on the right. Tiny on the left.": (PNEUMOTHORAX,),
    "There is no effusion on the right, and a small one on the left.": (EFFUSION,),
    "Moderate right and no left pleural effusion.": (EFFUSION,),
    "Trace right, no left pleural effusion.": (EFFUSION,),
    "No pneumothorax, pleural effusion seen on left.": (EFFUSION,),
    "No pneumothorax and large right pleural effusion.": (EFFUSION,),
    "Near complete resolution of the effusion.": (EFFUSION,),
    "Almost resolved pneumothorax.": (PNEUMOTHORAX,),
    "Incomplete clearing of the consolidation.": (CONSOLIDATION,),
    "Status post thoracentesis, small effusion remains.": (EFFUSION,),
    "Status post CABG with mild edema.": (EDEMA,),
    "Status post pacemaker placement.": (DEVICES,),
    "Tracheostomy is in standard position.": (DEVICES,),
    "LVAD is present.": (DEVICES,),
    "Median sternotomy wires are intact.": (DEVICES,),
    "ET tube has been pulled back 2 cm.": (DEVICES,),
    "The catheter has been withdrawn to the SVC.": (DEVICES,),
    "The NG tube is out of the stomach.": (DEVICES,),
    "Lines and tubes: right PICC.": (DEVICES,),
    "Nodule is stable, and the vessels are normal.": (LESION,),
    "Atelectasis is favored over pneumonia.": (ATELECTASIS,),
    "Effusion: no change.": (EFFUSION,),
}

NOT_SAID = {
    "History of pneumonia.": (PNEUMONIA,),
    "Patient with a history of congestive heart failure.": (EDEMA,),
    "H/o pneumothorax.": (PNEUMOTHORAX,),
    "Clinical history of rib fractures.": (FRACTURE,),
    "Known history of lung carcinoma.": (LESION,),
    "Past history of pneumonia, lungs are clear.": (PNEUMONIA,),
    "Prior pneumonia.": (PNEUMONIA,),
    "Sequela of previous infection.": (PNEUMONIA,),
    "Scarring from a prior pneumothorax.": (PNEUMOTHORAX,),
    "Previous left pleural effusion drained.": (EFFUSION,),
    "Left breast mass.": (LESION,),
    "Mass in the right breast.": (LESION,),
    "Chest wall mass on the left.": (LESION,),
    "Soft tissue nodule of the chest wall.": (LESION,),
    "There is a lump in the left axilla.": (LESION,),
    "No mass effect.": (LESION,),
    "Tortuous aorta.": (MEDIASTINUM,),
    "The aortic contour is tortuous.": (MEDIASTINUM,),
    "Mild tortuosity of the aorta with normal mediastinal contour.": (MEDIASTINUM,),
    "Diaphragmatic contours are abnormal.": (MEDIASTINUM,),
    "Kerley B lines.": (DEVICES,),
    "Thickened pleural line.": (DEVICES,),
    "Aortic valve calcification.": (DEVICES,),
    "These findings support the clinical diagnosis.": (DEVICES,),
    "This may lead to confusion.": (DEVICES,),
    "Status post treatment for pneumonia with clear lungs.": (PNEUMONIA,),
    "S/p drainage of a left pleural effusion.": (EFFUSION,),
    "Previously treated pneumonia.": (PNEUMONIA,),
    "Prior study showed left lower lobe pneumonia, today the lungs are clear.": (PNEUMONIA,),
    "Pneumonia was seen on the prior study.": (PNEUMONIA,),
    "Tracheal deviation to the left.": (DEVICES,),
    "Lungs are clear.": FINDINGS,
}


LINES = [
    line.split("|") for line in Path(__file__).with_name("labeler_probes.txt").read_text(encoding="utf-8").splitlines()
]
"""More sentences, one a line: what is said (P present, N denied, U in doubt, A nothing), the finding, the sentence."""

STATES = {"P": {State.POSITIVE}, "N": {State.NEGATIVE}, "U": {State.UNCERTAIN}, "A": {None, State.NEGATIVE}}


def probes(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Sentence and finding, one by one."""
    return [(sentence, finding) for sentence, findings in table.items() for finding in findings]


def test_there_are_enough_probes() -> None:
    """At least 97 sentences."""
    assert len({*UNCERTAIN, *NEGATIVE, *POSITIVE, *NOT_SAID}) >= 97


@pytest.mark.parametrize(("sentence", "finding"), probes(UNCERTAIN))
def test_doubt(sentence: str, finding: str) -> None:
    """What may be there is neither there nor denied."""
    assert LABELER.read(sentence).get(finding) is State.UNCERTAIN


@pytest.mark.parametrize(("sentence", "finding"), probes(NEGATIVE))
def test_denial(sentence: str, finding: str) -> None:
    """A denied finding is absent."""
    assert LABELER.read(sentence).get(finding) is State.NEGATIVE


@pytest.mark.parametrize(("sentence", "finding"), probes(POSITIVE))
def test_presence(sentence: str, finding: str) -> None:
    """A present finding is not denied by the words around it."""
    assert LABELER.read(sentence).get(finding) is State.POSITIVE


@pytest.mark.parametrize(("sentence", "finding"), probes(NOT_SAID))
def test_silence(sentence: str, finding: str) -> None:
    """The past, other organs and words that only look like a mention make no finding."""
    assert LABELER.read(sentence).get(finding) in (None, State.NEGATIVE)


@pytest.mark.parametrize(("sentence", "findings"), DOUBTED_ALTERNATIVES.items())
def test_a_doubted_alternative_does_not_count(sentence: str, findings: tuple[str, str]) -> None:
    """Of "A or B" both count, of "A or possibly B" only A does."""
    first, second = findings
    assert first in LABELER.find(sentence)
    assert second not in LABELER.find(sentence)
    assert LABELER.read(sentence)[second] is State.UNCERTAIN


@pytest.mark.parametrize(("said", "finding", "sentence"), LINES)
def test_wordings(said: str, finding: str, sentence: str) -> None:
    """Contractions, denials, doubt, history, two statements in a sentence, devices and other organs."""
    assert LABELER.read(sentence).get(finding) in STATES[said]


def test_devices_leave_no_finding() -> None:
    """Leads and generators are devices, and "no finding" is said of the lungs all the same."""
    said = LABELER.read("Pacemaker generator with leads in place. Lungs are clear.")
    assert said[NO_FINDING] is State.POSITIVE
    assert said[DEVICES] is State.POSITIVE
