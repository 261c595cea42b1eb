"""How long a sweep takes before its first step: both ways of composing a job, and a stored study.

python -m benchmarks.planning [--study tuned] [--jobs 20]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from hydra_plugins.qlexp_lanes import grid_of
from qlexp.config.schema import register_schema
from qlexp.main import CONF
from qlexp.sweep.compose import Composer
from qlexp.sweep.plan import plan


def main() -> None:
    """Prints seconds of this process's time; those of the stored study are of the wall too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", default="tuned", help="whose jobs are planned (%(default)s)")
    parser.add_argument("--jobs", type=int, default=20, help="how many of them in full, each way")
    options = parser.parse_args()
    composer, jobs = sweep(f"experiment={options.study}")
    some = jobs[:: -(-len(jobs) // options.jobs)]
    full = seconds(lambda: [plan(composer.full(job)) for job in some]) / len(some)
    quick = seconds(lambda: [composer.job(job) for job in jobs])
    print(
        f"in full      {1e3 * full:8.1f} ms a job, {full * len(jobs):8.1f} s for {len(jobs)} jobs"
    )
    print(f"as a sweep   {1e3 * quick / len(jobs):8.1f} ms a job, {quick:8.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        run_smoke(folder)
        started = time.perf_counter()
        run_smoke(folder)
        print(f"the study smoke, stored already: {time.perf_counter() - started:.1f} s in all")


def sweep(*words: str) -> tuple[Composer, list[list[str]]]:
    """What composes the jobs of a sweep, and their overrides."""
    register_schema()
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
    master = loader.load_configuration("config", list(words), RunMode.MULTIRUN)
    sweeper = master.hydra.sweeper
    params = [f"{key}={value}" for key, value in sweeper.params.items()]
    reference = [f"{key}={value}" for key, value in sweeper.reference.items()]
    return Composer(loader, master), grid_of(loader, [*params, *words], reference)


def seconds(call: Callable[[], object]) -> float:
    """This process's time for one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def run_smoke(store: str) -> None:
    words = ["experiment=smoke", "tracking=none", f"store={store}"]
    subprocess.run([sys.executable, "-m", "qlexp", *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
