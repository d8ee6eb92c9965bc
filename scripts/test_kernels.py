"""`make test-kernels`: the tests that compare numbers, once with each set of kernels that this processor can run.

Other kernels add up in other orders, as other processors do. Caffe's OpenBLAS is told its core type, PyTorch its vector
instructions and those of the library it convolves with. What the processor cannot run is left out, and said. At the end
stand the comparisons that came nearest to their limit, over all sets.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.engines.caffe.kernels import FLAGS, MIDDLE, VARIABLE, WIDE, this_processor

TESTS = (
    "tests/parity",
    "tests/property/test_generated_nets.py",
    "tests/property/test_random_exact.py",
    "tests/property/test_random_nets.py",
    "tests/unit/test_closeness.py",
    "tests/unit/test_distil.py",
    "tests/unit/test_numerics.py",
    "tests/unit/test_refit_numerics.py",
    "tests/unit/test_targets.py",
    "tests/unit/test_torch_frozen.py",
    "tests/unit/test_torch_layer_rules.py",
    "tests/unit/test_torch_net.py",
    "tests/unit/test_torch_solver.py",
    "tests/unit/test_torch_teacher.py",
    "tests/unit/test_tucker_numerics.py",
    "tests/cli/test_cli_caffe.py",
    "tests/cli/test_cli_export.py",
    "tests/cli/test_cli_finetune.py",
    "tests/cli/test_cli_forward.py",
    "tests/cli/test_cli_refit.py",
    "tests/cli/test_cli_test.py",
)
MOST = 12


@dataclass(frozen=True)
class Kernels:
    """One set.

    Attributes:
        core: OpenBLAS's core type.
        torch: ATEN_CPU_CAPABILITY.
        dnn: ONEDNN_MAX_CPU_ISA.
        needs: the processor's flags without which it cannot run.
    """

    core: str
    torch: str
    dnn: str
    needs: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.core} and PyTorch {self.torch}, oneDNN {self.dnn}"


SETS = (
    Kernels("Prescott", "default", "SSE41"),
    Kernels("Haswell", "avx2", "AVX2", frozenset(FLAGS[MIDDLE])),
    Kernels("Zen", "default", "AVX2", frozenset(FLAGS[MIDDLE])),
    Kernels("SkylakeX", "avx512", "AVX512_CORE", frozenset(FLAGS[WIDE])),
    # The furthest apart that one processor can be: old kernels in one engine, new ones in the other.
    Kernels("Prescott", "avx512", "AVX512_CORE", frozenset(FLAGS[WIDE])),
    Kernels("SkylakeX", "default", "SSE41", frozenset(FLAGS[WIDE])),
)


def main(arguments: list[str]) -> int:
    """Runs them; arguments go to pytest, and take the place of TESTS where they name tests."""
    named = [one for one in arguments if one.startswith("tests")]
    flags = set(this_processor().get("flags", "").split())
    failed, left_out = [], []
    with tempfile.TemporaryDirectory() as folder:
        margins = Path(folder) / "margins"
        for kernels in SETS:
            if platform.machine() != "x86_64" or not kernels.needs <= flags:
                left_out.append(kernels)
                continue
            print(f"\n== {kernels}", flush=True)
            env = dict(os.environ, REBIRTH_TEST_MARGINS=str(margins), ATEN_CPU_CAPABILITY=kernels.torch)
            env.update({VARIABLE: kernels.core, "ONEDNN_MAX_CPU_ISA": kernels.dnn})
            command = [sys.executable, "-m", "pytest", "-q", *arguments, *(() if named else TESTS)]
            if subprocess.run(command, env=env, check=False).returncode:
                failed.append(kernels)
        rows = [json.loads(line) for line in margins.read_text().splitlines()] if margins.exists() else []
    print("\nNearest to their limits:")
    for share, what, distance, limit in sorted(rows, reverse=True)[:MOST]:
        print(f"  {share:4.0%}  {what}: {distance:.2e} of {limit:.2e}")
    for kernels in left_out:
        missing = ", ".join(sorted(kernels.needs - flags)) or "this is no x86_64"
        print(f"left out: {kernels} (the processor lacks {missing})")
    for kernels in failed:
        print(f"failed: {kernels}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
