"""Words and sentences that other layers write and pages show: marked here so that catalogues hold them.

In: nothing. Out: :data:`WORDS` and :data:`SENTENCES`, figures and names in them numbered as
``results.wording.translated`` takes them out. A sentence that is missing here is shown in English.
"""

from __future__ import annotations

N_ = str  # marks messages for the extraction

WORDS = (
    # Decisions, verdicts, etiologies (core.records), operating points (evaluation.operating_points), labels.
    N_("POSITIVE"), N_("NEGATIVE"), N_("ABSTAIN"), N_("ANSWER"), N_("ANSWER WITH WARNING"), N_("REFUSE"),
    N_("BACTERIAL"), N_("VIRAL"), N_("UNCERTAIN"), N_("normal"), N_("balanced"), N_("screening"),
    N_("rule-in"), N_("cost"), N_("pneumonia-unspecified"), N_("other"),
    # What drift is looked for in (monitoring.quantities).
    N_("Mean grey level"), N_("Contrast"), N_("Dark end of the exposure"), N_("Bright end of the exposure"),
    N_("Film size in pixels"), N_("Width over height"), N_("Age of the patients"), N_("Devices"),
    N_("Feature distance"), N_("Picture distance"), N_("Share answered with a warning"),
    N_("Share refused by the gate"), N_("Probabilities"), N_("Share positive"), N_("Share abstained"),
    N_("Feature distance beyond the gate's bound"), N_("Picture distance beyond the gate's bound"),
)  # fmt: skip
SENTENCES = (
    # What a film's file says against it (imaging).
    N_("this is a photograph of a film: the camera changed exposure and outline, so trust the answer less"),
    N_("the picture is in colour; a radiograph has none"),
    N_("the picture looks like a negative (lungs bright, bones dark); nothing was changed"),
    N_("the picture looks like a negative (lungs bright, bones dark); nothing was changed, although it is "
       "tagged MONOCHROME{0}"),
    N_("the modality is {0}, not that of a radiograph (CR, DX, RG)"),
    N_("the patient orientation is that of a lateral view, not a frontal one (AP or PA)"),
    N_("{0} bits are in use of a {1}-bit file; {2} was taken as full scale"),
    # Why a film was not examined (imaging, examining), and what to do.
    N_("this is no film file"), N_("DICOM, JPEG, PNG, TIFF or BMP content"), N_("the file is empty"),
    N_("copy it again from its source"), N_("the picture cannot be identified"),
    N_("a whole JPEG, PNG, TIFF or BMP file"), N_("the film could not be examined"),
    N_("export it again, without compression where possible"), N_("the picture has {0} x {1} pixels"),
    N_("at least {0} rows and columns"), N_("the film took longer than {0} s"),
    N_("the film ended its examination"), N_("the film's pixels were deleted"), N_("send the film again"),
    N_("a film that its decoder can read within the limits of time and memory"),
    N_("open and save it with another program; limits.film_seconds and film_memory_mb are higher"),
    # Beside the dashboard's figures (monitoring).
    N_("Agreement, sensitivity and specificity are those of the {0} films with a reader's diagnosis out of "
       "{1}: readers choose which films they comment on, so they may differ for the others."),
    N_("The active bundle's directory is gone: nothing is compared with its validation films."),
    N_("Exposure, size, devices, probabilities and shares are compared with the first films here under this "
       "bundle (baseline): the bundle keeps no distribution of them. {0} films are still missing for it."),
    N_("Readers agreed with {0} of {1} answers; at least {2} is wanted (exact binomial, p = {3})"),
    N_("The oldest film has waited for {0} minutes; are the workers running?"),
)  # fmt: skip
