"""Hosts on this machine, each with a cable to one switch: network namespaces. A process that runs
at a host has its network and no other. A cable that is pulled tells nobody; what was sent meanwhile
comes when it is plugged in again, as long as the kernel that has it still tries.

All addresses are loopback's, and no way leads out. The test itself is at the switch.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from itertools import count
from pathlib import Path

import pytest

SWITCH, CARD = "switch", "card"
NET = "127.77.0"
NOBODYS = "02:00:00:00:00:01"
"""The address of no card."""
NEWNET = 0x40000000
"""CLONE_NEWNET of setns(2)."""
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count(1)


class Lan:
    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = (SWITCH, *hosts)
        self._prefix = f"prefs-{os.getpid()}-{next(_numbers)}"

    def address(self, host: str) -> str:
        return f"{NET}.{self._hosts.index(host) + 1}"

    @contextmanager
    def at(self, host: str) -> Iterator[None]:
        """What this thread opens and starts meanwhile, processes too, is at that host."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(f"/run/netns/{self._name(host)}")
            yield
        finally:
            _enter(f"/proc/self/fd/{before}")
            os.close(before)

    def pull(self, host: str) -> None:
        self._ip(SWITCH, "link", "set", "dev", host, "down")

    def plug(self, host: str) -> None:
        self._ip(SWITCH, "link", "set", "dev", host, "up")

    def lose(self, sender: str, receiver: str) -> None:
        """What the one sends to the other gets lost, and not the other way round."""
        self._neighbour(sender, receiver, NOBODYS)

    def lose_no_more(self, sender: str, receiver: str) -> None:
        told = self._ip(receiver, "-o", "link", "show", "dev", _card(receiver))
        self._neighbour(sender, receiver, told.partition("link/ether ")[2].split()[0])

    def on_the_way(self, sender: str, receiver: str) -> int:
        """Bytes that the one sent and the other has not confirmed: the sender's kernel sends them
        again, though the process that sent them has ended."""
        with self.at(sender):
            rows = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
        fields = (row.split() for row in rows)
        to = ip_address(self.address(receiver)).packed[::-1].hex().upper()
        return sum(int(one[4].split(":")[0], 16) for one in fields if one[2].startswith(to))

    def make(self) -> None:
        for host in self._hosts:
            _run("ip", "netns", "add", self._name(host))
            # whoever keeps the usual mask takes all of loopback's addresses for its own
            self._ip(host, "address", "add", "127.0.0.1/32", "dev", "lo")
            self._ip(host, "link", "set", "dev", "lo", "up")
        self._ip(SWITCH, "link", "add", "name", SWITCH, "type", "bridge")
        for host in self._hosts[1:]:
            there = ("peer", "name", CARD, "netns", self._name(host))
            self._ip(SWITCH, "link", "add", "name", host, "type", "veth", *there)
            self._ip(SWITCH, "link", "set", "dev", host, "master", SWITCH, "up")
        for host in self._hosts:
            card = _card(host)
            self._ip(host, "link", "set", "dev", card, "up")
            self._ip(host, "address", "add", f"{self.address(host)}/24", "dev", card)
            with self.at(host):
                Path(f"/proc/sys/net/ipv4/conf/{card}/route_localnet").write_text("1")

    def end(self) -> None:
        for host in self._hosts:
            with suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "delete", self._name(host))

    def _neighbour(self, sender: str, receiver: str, card: str) -> None:
        of = (self.address(receiver), "lladdr", card, "dev", _card(sender), "nud", "permanent")
        self._ip(sender, "neighbour", "replace", *of)

    def _name(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _ip(self, host: str, *words: str) -> str:
        return _run("ip", "-n", self._name(host), *words)


@contextmanager
def lan(*hosts: str) -> Iterator[Lan]:
    """The test is at the switch until its end. Where the machine allows none, it is skipped."""
    if shutil.which("ip", path=PATH) is None:
        pytest.skip("no hosts to be had: apt-get install iproute2")
    made = Lan(hosts)
    try:
        try:
            made.make()
        except (subprocess.CalledProcessError, OSError) as fault:
            pytest.skip(f"no hosts here, they take root: {getattr(fault, 'stderr', None) or fault}")
        with made.at(SWITCH):
            yield made
    finally:
        made.end()


def _card(host: str) -> str:
    return SWITCH if host == SWITCH else CARD


def _enter(namespace: str) -> None:
    where = os.open(namespace, os.O_RDONLY)
    try:
        if _libc.setns(where, NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(where)


def _run(*words: str) -> str:
    environ = {**os.environ, "PATH": PATH}
    return subprocess.run(words, check=True, capture_output=True, text=True, env=environ).stdout
