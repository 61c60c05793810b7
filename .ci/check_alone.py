"""Checks on the installed wheel without any framework: run by .ci/run in an empty environment."""

import re
import statistics
import subprocess
import sys
from importlib.metadata import metadata

IMPORT = """
import sys, time
before = set(sys.modules)
start = time.perf_counter()
import alrc
print((time.perf_counter() - start) * 1e3)
assert alrc.Settings().num_stddev == 2.0
extra = {name.partition(".")[0] for name in set(sys.modules) - before} - {"alrc"}
assert extra <= set(sys.stdlib_module_names), extra
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def main() -> None:
    results = [run(IMPORT) for _ in range(7)]
    assert all(result.returncode == 0 for result in results), results[0].stderr
    milliseconds = statistics.median(float(result.stdout) for result in results)
    assert milliseconds < 50, f"import alrc took {milliseconds:.1f} ms"
    print(f"import alrc: {milliseconds:.1f} ms, standard library only")

    links = re.findall(r"\]\(([^)]*)\)", metadata("alrc").get_payload())  # type: ignore[arg-type]
    assert links, "the package has no description"
    dead = [link for link in links if not link.startswith("https://")]
    assert not dead, f"links that are dead outside of the repository: {dead}"

    refusal = run("from alrc.torch import ALRC").stderr.strip().splitlines()[-1]
    expected = (
        "ModuleNotFoundError: alrc.torch needs PyTorch, which is not installed here. "
        'Install it with: pip install "alrc[torch]"'
    )
    assert refusal == expected, refusal
    print(refusal)

    command = subprocess.run(
        [sys.executable.replace("python", "alrc"), "demo"], capture_output=True, text=True
    )
    assert command.returncode == 1, command
    assert 'pip install "alrc[lab]"' in command.stderr, command
    print(command.stderr.strip())


if __name__ == "__main__":
    main()
