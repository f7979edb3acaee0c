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
def cells(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Cell]]:
    """Every cell of the run, printed at its end."""
    found: list[Cell] = []
    yield found
    told = [matrix.as_json(found), matrix.as_markdown(found)]
    written = tmp_path_factory.mktemp("kill-matrix") / "kill-matrix.json"
    written.write_text(json.dumps(told[0], indent=1))
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        sys.stdout.write(f"\n{told[1]}\nThe same as JSON: {written}\n")
    if request.config.getoption("--kill-matrix") == "full":
        ways = {cell.way for cell in found}
        before = json.loads(KEPT.read_text())["cells"] if KEPT.exists() else []
        everything = [*(cell for each in before if (cell := Cell(**each)).way not in ways), *found]
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(matrix.as_json(everything), indent=1))
        PAGE.write_text(matrix.as_markdown(everything))


def test_nothing_is_lost_doubled_or_orphaned(
    request: pytest.FixtureRequest, house: House, owner: UserHandle, cells: list[Cell]
) -> None:
    """Whoever is killed wherever, the launch runs once, the stop ends all, and a killed session says so."""
    steps = matrix.discover(house, owner)
    is_full = request.config.getoption("--kill-matrix") == "full"
    pairs = matrix.everything(house, steps) if is_full else matrix.sample(house, steps)
    done = matrix.live(house, owner, pairs)
    cells.extend(done)

    assert [cell for cell in done if not cell.is_good] == []
    assert [cell for cell in done if not cell.came and cell.victim not in OF_THE_SESSION] == []
    untold = [cell for cell in done if cell.victim in OF_THE_SESSION and cell.flow == "launch" and cell.came]
    assert [cell for cell in untold if not cell.sentence] == []
    assert {cell.victim for cell in done if cell.came} == set(house.victims)
