"""The program that deploys applications of Ray Serve, beside a stand-in for Ray that does what Ray 2.60 was seen to do.

Rules:
- `serve run` blocks until it is interrupted, whatever becomes of its applications, and ends with status 0 then.
- `serve.status` tells of each application its status, a message and its deployments.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backends.engines.ray_serve.engine import RUNNER, RayServe

PACKAGE = """
begun = ended = False
def is_initialized():
    return begun
def shutdown():
    global ended
    ended = True
    print("Ray has ended", flush=True)
"""
SERVE = """
import types
def one(status, message="", **deployments):
    return types.SimpleNamespace(status=status, message=message, deployments=deployments)
answers = {answers}
def status():
    print(len(answers), "more", flush=True)
    found = answers.pop(0) if len(answers) > 1 else answers[0]
    if found is None:
        raise RuntimeError("there is no controller yet")
    return types.SimpleNamespace(applications=found)
"""
SCRIPTS = """
import sys, time, ray
def cli(words):
    ray.begun = True
    print("Submitted deploy config successfully.", flush=True)
    try:
        while True:
            time.sleep(10)
    except KeyboardInterrupt:
        print("shutting down", flush=True)
        sys.exit()
"""
QUICKLY = "import sys; sys.path.insert(0, sys.argv.pop(1)); import runner; runner.LOOK = 0.01; runner.main()"
TRACE = (
    "The deployment failed to start 3 times in a row. Error:\\n  File x\\nRuntimeError: no such model: /x\\n"
)
IMPORT = (
    "Deploying app 'app' failed with exception:\\n  import x\\nModuleNotFoundError: No module named 'x'\\n"
)


def start(folder: Path, answers: str) -> subprocess.Popen[str]:
    """Start the program beside a Ray that answers so, one after another; the last answer stays."""
    (folder / "ray" / "serve").mkdir(parents=True)
    (folder / "ray" / "__init__.py").write_text(PACKAGE)
    (folder / "ray" / "serve" / "__init__.py").write_text(SERVE.format(answers=answers))
    (folder / "ray" / "serve" / "scripts.py").write_text(SCRIPTS)
    command = [
        sys.executable,
        "-c",
        QUICKLY,
        str(RUNNER.parent),
        "--host",
        "127.0.0.1",
        "--port",
        "1",
        "--app",
        "x:app",
    ]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (
            f'[None, dict(), dict(app=one("DEPLOYING")), dict(app=one("DEPLOY_FAILED", "{IMPORT}"))]',
            "'app' cannot be deployed: ModuleNotFoundError: No module named 'x'",
        ),
        (
            f"""[dict(app=one("DEPLOY_FAILED", "Failed to update the deployments ['A'].",
                A=one("DEPLOY_FAILED", "{TRACE}"), B=one("UPDATING", "waits")), b=one("DEPLOY_FAILED"))]""",
            "'app' cannot be deployed: RuntimeError: no such model: /x; 'b' cannot be deployed: Ray gives no reason",
        ),
    ],
    ids=["it cannot be imported", "its constructor fails, and so does another"],
)
def test_it_ends_with_the_reason_when_ray_has_given_up(tmp_path: Path, answers: str, reason: str) -> None:
    with start(tmp_path, answers) as process:
        out, err = process.communicate(timeout=60)
    lines = err.splitlines()
    assert process.returncode == 1 and lines[-1] == f"ray_serve_runner: {reason}"
    assert "Error: " in "".join(lines[:-1]), "all that Ray says is in the log"
    assert RayServe().crash_reason(lines) == reason
    assert out.splitlines()[-2:] == ["shutting down", "Ray has ended"]


def test_it_goes_on_while_another_application_may_run(tmp_path: Path) -> None:
    failed = f'app=one("DEPLOY_FAILED", "{IMPORT}")'
    answers = f'[dict({failed}, b=one("DEPLOYING")), dict({failed}, b=one("RUNNING"))]'
    with start(tmp_path, answers) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "1 more\n":
            pass
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err, out) == (0, "", "shutting down\n")
