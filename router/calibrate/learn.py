"""Everything that `lamplighter calibrate` learns of one cascade; needs the extra `calibrate`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from policies.calibration import Calibration
from router.calibrate.fit import fit
from router.calibrate.labelled import Labelled
from router.calibrate.neighbourly import learnt
from router.calibrate.report import Report, examine


def learn(
    labels: Sequence[Labelled],
    cascade: tuple[str, str, str],
    max_wrong: float | None,
    neighbours: Path | None,
) -> tuple[Calibration, Report]:
    """`cascade` names the policy, the small model and the large one. ValueError, in words.

    What prompts alone say is learnt too, and written, if there is a file for `neighbours`.
    """
    fitted = fit(labels, *cascade)
    if neighbours is not None:
        labels = asyncio.run(learnt(labels, fitted, neighbours))
        fitted = fit(labels, *cascade)
    return fitted, examine(labels, fitted, max_wrong)
