"""What an installed qlexp consists of."""

from pathlib import Path
from zipfile import ZipFile

from hatchling.builders.wheel import WheelBuilder

from qlexp.main import CONF

ROOT = Path(__file__).parent.parent


def test_the_wheel_carries_conf_and_the_launcher(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(ZipFile(wheel).namelist())
    conf = {f"qlexp/conf/{path.relative_to(CONF)}" for path in CONF.rglob("*.yaml")}
    assert conf == {name for name in names if name.endswith(".yaml")}
    for plugin in ("qlexp_lanes", "qlexp_extensions"):
        assert f"hydra_plugins/{plugin}/__init__.py" in names
    templates = ROOT / "analysis" / "render" / "templates"
    assert {f"analysis/render/templates/{path.name}" for path in templates.iterdir()} <= names
    assert "hydra_plugins/__init__.py" not in names  # Hydra finds plugins in a namespace package
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
