"""A real mosquitto for tests: from the PATH, else from Debian's package, unpacked without root into .tools/."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import getpass
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / ".tools"
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # Debian puts daemons here, and users' PATH leaves it out
FETCH_ROUNDS = 6  # how deep missing libraries may depend on missing libraries


@dataclass(frozen=True)
class Program:
    """An executable and what it needs in its environment."""

    path: Path
    library_path: str = ""

    def environment(self) -> dict[str, str]:
        """Return this process's environment with the program's libraries in it."""
        extra = {"LD_LIBRARY_PATH": self.library_path} if self.library_path else {}
        return {**os.environ, **extra}


def find_program(name: str, package: str) -> Program:
    """Return ``name`` from the PATH, else out of Debian's ``package``. Raises RuntimeError saying what is missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *SBIN])
    if found := shutil.which(name, path=path):
        return Program(Path(found))
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / f"{package}.lock").open("w") as lock:  # test runs side by side fetch it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = TOOLS / package
        if not root.exists():
            _unpack(name, package, root)
        return _inside(root, name)


def _inside(root: Path, name: str) -> Program:
    for folder in ("usr/sbin", "usr/bin", "sbin", "bin"):
        if (root / folder / name).exists():
            libraries = [str(p) for p in (*root.glob("usr/lib/*-linux-*"), *root.glob("lib/*-linux-*")) if p.is_dir()]
            return Program(root / folder / name, os.pathsep.join(libraries))
    raise RuntimeError(f"{root} has no {name}; remove it and run again")


def _unpack(name: str, package: str, root: Path) -> None:
    """Unpack the package and, round by round, those packages it depends on that its libraries are missing from."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise RuntimeError(f"{name} is not on the PATH and this is no Debian to fetch it from: install {package}")
    work = root.with_name(f"{package}.new")
    shutil.rmtree(work, ignore_errors=True)
    tree, archives = work / "tree", work / "archives"
    tree.mkdir(parents=True)
    archives.mkdir()
    options: list[str] = []
    wanted, had = [package], {package}
    for _ in range(FETCH_ROUNDS):
        options = _download(wanted, archives, work, options)
        for archive in archives.glob("*.deb"):
            _run(["dpkg", "-x", str(archive), str(tree)])
            archive.unlink()
        if not _missing_libraries(_inside(tree, name)):
            tree.rename(root)
            shutil.rmtree(work)
            return
        wanted = [p for p in _dependencies(wanted, options) if p not in had and not _is_installed(p)]
        had.update(wanted)
        if not wanted:
            break
    raise RuntimeError(
        f"{name}: these libraries are in no package it depends on: {_missing_libraries(_inside(tree, name))}"
    )


def _download(packages: list[str], folder: Path, work: Path, options: list[str]) -> list[str]:
    """Fetch packages; where apt has no lists, make lists of our own first. Returns apt's options to go on with."""
    command = ["apt-get", *options, "-q", "download", *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return options
    if options:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    state, cache = work / "state", work / "cache"
    (state / "lists" / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    own = [
        f"Dir::State={state}",
        "Dir::State::status=/var/lib/dpkg/status",
        f"Dir::Cache={cache}",
        "APT::Sandbox::User=",
    ]
    options = [part for option in own for part in ("-o", option)]
    _run(["apt-get", *options, "-q", "update"])
    return _download(packages, folder, work, options)


def _dependencies(packages: list[str], options: list[str]) -> list[str]:
    text = _run(["apt-cache", *options, "depends", "--no-recommends", "--no-suggests", *packages])
    return [line.split(":", 1)[1].strip() for line in text.splitlines() if "Depends:" in line and "<" not in line]


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${Status}", package]
    return "ok installed" in subprocess.run(query, capture_output=True, text=True, check=False).stdout


def _missing_libraries(program: Program) -> list[str]:
    text = _run(["ldd", str(program.path)], program.environment())
    return re.findall(r"^\s*(\S+) => not found", text, re.MULTILINE)


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def password_entry(user: str, password: str) -> str:
    """Return a line of mosquitto's password file (format $7$: PBKDF2 with SHA-512)."""
    salt = b"twelve bytes"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


class Broker:
    """One broker on 127.0.0.1, with its state in a folder, so that it can stop and come back with what it knew."""

    def __init__(self, folder: Path, *extra: str) -> None:
        self._program = find_program("mosquitto", "mosquitto")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"user {getpass.getuser()}",
            "persistence true",
            f"persistence_location {folder}/",
            "set_tcp_nodelay true",
            "log_dest file " + str(folder / "mosquitto.log"),
            *(extra or ("allow_anonymous true",)),
        ]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        command = [str(self._program.path), "-c", str(self._folder / "mosquitto.conf")]
        self._process = subprocess.Popen(command, env=self._program.environment(), stderr=subprocess.DEVNULL)
        for _ in range(500):
            if self._process.poll() is not None:
                raise RuntimeError(f"mosquitto ended: {(self._folder / 'mosquitto.log').read_text()}")
            with socket.socket() as probe:
                probe.settimeout(0.02)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
        raise RuntimeError("mosquitto does not listen after 10 s")

    def stop(self) -> None:
        """End it in order: it writes down what it holds."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with nothing written down."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it from doing anything, with its connections left open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None


@contextlib.contextmanager
def broker(folder: Path, *extra: str) -> Iterator[Broker]:
    """A running broker; ``extra`` are lines of its configuration that replace free access for everybody."""
    made = Broker(folder, *extra)
    made.start()
    try:
        yield made
    finally:
        made.thaw()
        made.kill()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
