"""What prompts alone say, learnt from labelled ones."""

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from policies.calibration import Calibration
from policies.cascade import Terms, judge
from router.calibrate.labelled import Labelled
from router.neighbours import build


async def learnt(
    labels: Sequence[Labelled], calibration: Calibration, file: Path
) -> list[Labelled]:
    """The labels with what their neighbours say; writes the neighbours to `file`.

    ValueError without the extra `embeddings`, or where no label has both a prompt and a large
    model's answer. What is said of a label leaves itself out.
    """
    asked = [each for each in labels if each.prompt and each.large_right is not None]
    verdicts = [judge(each.signals, calibration, Terms()) for each in asked]
    neighbours = await build(
        [each.prompt or "" for each in asked],
        [each.small_right for each in asked],
        [bool(each.large_right) for each in asked],
        [not verdict.keep for verdict in verdicts],
    )
    neighbours.save(file)
    said = dict(zip(map(id, asked), neighbours.left_out(), strict=True))
    return [
        replace(each, signals=replace(each.signals, neighbours=said[id(each)].small_right))
        if id(each) in said
        else each
        for each in labels
    ]
