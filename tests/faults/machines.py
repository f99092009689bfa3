"""Two machines, as far as the network goes: namespaces with their own addresses, and a switch."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.training_under_test import wait_until

SSHD = "/usr/sbin/sshd"
ADDRESSES = {"one": "10.99.0.1", "two": "10.99.0.2"}
# The client's settings, without touching what the user has.
SSH_CONFIG = """\
Host *
  IdentityFile {keys}/user
  IdentitiesOnly yes
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""
SSHD_CONFIG = """\
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
StrictModes no
PidFile none
"""


def lacking() -> str | None:
    """Why this machine cannot play two."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if not os.path.exists(SSHD) or not shutil.which("ip"):
        return "no sshd or no ip: apt-get install openssh-server iproute2"
    return None


@dataclass(frozen=True)
class Machines:
    """Two that reach each other by ssh.

    Attributes:
        name: Begins the names of the namespaces.
        ssh: Directory with the settings of the ssh client.
    """

    name: str
    ssh: Path

    @property
    def hosts(self) -> str:
        """One worker on each."""
        return ",".join(f"{address}:1" for address in ADDRESSES.values())

    @property
    def train(self) -> list[str]:
        """The command that trains from the first."""
        inside = f'mount --bind {self.ssh} /etc/ssh && exec {sys.executable} -m jobs.train "$@"'
        return [*self._in("one"), "sh", "-c", inside, "train"]

    def pull_cable(self) -> None:
        """Take the second machine off the network, which both notice."""
        self.run("two", "ip link set eth0 down")

    def plug_in(self) -> None:
        """Put it back."""
        self.run("two", "ip link set eth0 up")

    def switch(self, state: str) -> None:
        """Turn the switch between them ``up``, or ``down``: then it drops all packets, silently."""
        self.run("switch", f"ip link set hub {state}")

    def run(self, machine: str, command: str) -> None:
        """Run a command on one of them."""
        subprocess.run([*self._in(machine), *command.split()], check=True)

    def _in(self, machine: str) -> list[str]:
        return ["ip", "netns", "exec", f"{self.name}-{machine}"]


@contextlib.contextmanager
def two_machines(directory: Path) -> Iterator[Machines]:
    """Set them up, with an ssh server on the second; nothing of them is left in the end."""
    machines = Machines(f"nfm-{os.getpid()}", directory / "ssh")
    machines.ssh.mkdir(parents=True)
    for key in ("user", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", machines.ssh / key]
        subprocess.run(command, check=True)
    for name, text in (("ssh_config", SSH_CONFIG), ("sshd_config", SSHD_CONFIG)):
        (machines.ssh / name).write_text(text.format(keys=machines.ssh))
    with contextlib.ExitStack() as stack:
        for name in ("switch", *ADDRESSES):
            _ip(f"netns add {machines.name}-{name}")
            stack.callback(_remove, f"{machines.name}-{name}")
        machines.run("switch", "ip link add hub type bridge")
        for name, address in ADDRESSES.items():
            peer = f"peer eth0 netns {machines.name}-{name}"
            machines.run("switch", f"ip link add {name} type veth {peer}")
            machines.run("switch", f"ip link set {name} master hub up")
            machines.run(name, f"ip address add {address}/24 dev eth0")
            machines.run(name, "ip link set lo up")
            machines.run(name, "ip link set eth0 up")
        machines.switch("up")
        os.makedirs("/run/sshd", exist_ok=True)  # what its start script would do
        log = directory / "sshd.log"
        serve = f"{SSHD} -D -E {log} -f {machines.ssh}/sshd_config"
        server = subprocess.Popen([*machines._in("two"), *serve.split()])
        stack.callback(server.wait)
        stack.callback(server.terminate)
        wait_until(lambda: "Server listening" in log.read_text() if log.exists() else False, "sshd")
        yield machines


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


def _remove(namespace: str) -> None:
    """End what is left in a namespace, such as sessions of the ssh server, then remove it."""
    pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    for pid in pids.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip(f"netns delete {namespace}")
