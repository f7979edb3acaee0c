"""The kill matrix: every part, after every write of a launch and of a stop, on both ways.

By default a sample; `--kill-matrix=full` does every cell and writes docs/development/kill-matrix.md, in which the way
that a run left out (`-k sqlite`) stands as the last full run had it.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawner.testing.gitlab.client import UserHandle
from tests.functional.kill import matrix
from tests.functional.kill.house import House
from tests.functional.kill.life import OF_THE_SESSION, Cell

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "development" / "kill-matrix.md"
KEPT = ROOT / ".slipway" / "kill-matrix.json"
pytestmark = pytest.mark.timeout(4 * 3600)  # a whole matrix; the waits inside are short


@pytest.fixture(scope="module")
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[matrix.Done]:
    """Every cell of the run; printed at its end, and kept where the run was more than a sample."""
    found = matrix.Done()
    yield found
    written = tmp_path_factory.mktemp("kill-matrix") / "kill-matrix.json"
    written.write_text(json.dumps(matrix.as_json(found.cells), indent=1))
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        sys.stdout.write(f"\n{matrix.as_markdown(found.cells)}\nThe same as JSON: {written}\n")
    asked = request.config.getoption("--kill-matrix")
    if asked != "sample":
        before = [cell for cell in kept() if asked == "again" or cell.way not in found.steps]
        everything = matrix.merged(before, found)
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(matrix.as_json(everything), indent=1))
        PAGE.write_text(matrix.as_markdown(everything))


def kept() -> list[Cell]:
    """Return the cells of the last full run."""
    return [Cell(**each) for each in json.loads(KEPT.read_text())["cells"]] if KEPT.exists() else []


def test_nothing_is_lost_doubled_or_orphaned(
    request: pytest.FixtureRequest, house: House, owner: UserHandle, done: matrix.Done
) -> None:
    """Whoever is killed wherever, the launch runs once, the stop ends all, and a killed session says so."""
    steps = matrix.discover(house, owner)
    match request.config.getoption("--kill-matrix"):
        case "full":
            plans = matrix.everything(house, steps)
        case "again":
            plans = matrix.again(house, steps, kept())
        case _:
            plans = matrix.sample(house, steps)
    cells = matrix.live(house, owner, plans)
    done.cells.extend(cells)
    done.steps[house.way] = steps

    assert [cell for cell in cells if not cell.is_good] == []
    assert [cell for cell in cells if not cell.came and cell.victim not in OF_THE_SESSION] == []
    untold = [cell for cell in cells if cell.victim in OF_THE_SESSION and cell.flow == "launch" and cell.came]
    assert [cell for cell in untold if not cell.sentence] == []
    assert any(cell.came for cell in cells) or not plans
