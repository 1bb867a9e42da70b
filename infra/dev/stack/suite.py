"""`infra/dev/test`: every check of the repository, in stages, on private servers."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stack import private
from stack.process import Failure
from stack.programs import CLONE, build

# Optimised, with the kill points of the fault tests compiled in and warnings as errors.
_preset = "ci"

# Of pytest; each has servers of its own, which take about a gigabyte.
_workers = max(1, min(4, os.cpu_count() or 1))


@dataclass
class Stage:
    """One line of the closing table."""

    name: str
    run: Callable[[], bool]
    always: bool = True


class Suite:
    """Runs the stages in order and goes on after a failing one, so that one run shows all that is wrong."""

    def __init__(self, *, long: bool, arguments: Sequence[str]) -> None:
        self._long = long
        self._arguments = list(arguments)
        self._servers: dict[str, str] | None = None

    def stages(self) -> list[Stage]:
        return [
            Stage("lint", self._lint),
            Stage("unit", lambda: self._unit(_preset)),
            Stage("integration", lambda: self._integration(_preset)),
            # They wait more than they compute; a file's tests stay together, for they share a Tidemark.
            Stage("acceptance", lambda: self._pytest("tests/acceptance", "-n", str(_workers), "--dist", "loadfile")),
            Stage("fault", lambda: self._pytest("tests/fault")),
            Stage("tidy", self._tidy, always=False),
            Stage("asan", lambda: self._sanitized("asan"), always=False),
            Stage("tsan", lambda: self._sanitized("tsan"), always=False),
            Stage("coverage", self._coverage, always=False),
        ]

    def run(self, only: str | None) -> bool:
        """Whether every stage passed; prints what each took."""
        chosen = [stage for stage in self.stages() if stage.name == only or (not only and (stage.always or self._long))]
        report = []
        for stage in chosen:
            print(f"\n=== {stage.name}", flush=True)
            begin = time.monotonic()
            try:
                passed = stage.run()
            except Failure as failure:
                print(failure, flush=True)
                passed = False
            report.append(f"{stage.name:12} {'passed' if passed else 'FAILED'} {time.monotonic() - begin:7.1f} s")
        print("\n" + "\n".join(report), flush=True)
        return all("passed" in line for line in report)

    def _lint(self) -> bool:
        return self._do([str(CLONE / "infra" / "dev" / "lint"), *self._arguments])

    def _tidy(self) -> bool:
        """clang-tidy over every source of the product, as .clang-tidy says."""
        build(_preset)
        folders = "schemas|infra|producer|consumers|api"
        sources = f"{CLONE}/({folders})/.*[.]cpp$"
        directory = str(CLONE / "build" / _preset)
        return self._do(["run-clang-tidy", "-quiet", "-p", directory, "-j", str(os.cpu_count() or 1), sources])

    def _unit(self, preset: str) -> bool:
        build(preset)
        return self._ctest(preset, "unit", os.environ, parallel=os.cpu_count() or 1)

    def _integration(self, preset: str) -> bool:
        build(preset)
        with private.servers() as (kafka, postgres):
            return self._ctest(preset, "integration", private.environment(kafka, postgres), parallel=1)

    def _pytest(self, folder: str, *options: str) -> bool:
        build(_preset)
        long = ["--long"] if self._long else []
        return self._do(["/usr/bin/python3", "-B", "-m", "pytest", folder, *options, *long, *self._arguments])

    def _sanitized(self, preset: str) -> bool:
        """Both kinds of C++ tests; what a sanitizer reports ends the test that met it."""
        return all([self._unit(preset), self._integration(preset)])

    def _coverage(self) -> bool:
        # Counts add up: those of an earlier run would hide what is no longer tested.
        for counts in (CLONE / "build" / "coverage").rglob("*.gcda"):
            counts.unlink()
        passed = self._sanitized("coverage")
        folders = [f"--filter={CLONE}/{name}/" for name in ("schemas", "infra", "producer", "consumers", "api")]
        return self._do(["gcovr", "--root", str(CLONE), *folders, str(CLONE / "build" / "coverage")]) and passed

    def _ctest(self, preset: str, label: str, environment: Mapping[str, str], parallel: int) -> bool:
        directory = str(CLONE / "build" / preset)
        command = ["ctest", "--test-dir", directory, "-L", f"^{label}$", "-j", str(parallel)]
        return self._do([*command, "--output-on-failure", "--no-tests=error", *self._arguments], environment)

    @staticmethod
    def _do(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> bool:
        # The programs' settings in the caller's shell are no business of the tests'.
        own = ("TIDEMARK_TEST_",)
        environment = {k: v for k, v in environment.items() if k.startswith(own) or not k.startswith("TIDEMARK_")}
        return subprocess.run(command, cwd=CLONE, env=environment, check=False).returncode == 0
