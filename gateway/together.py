"""Several processes change their config together: the part of the master, and the part of each worker.

Rules:
- The master reads the files; the workers get what it has read, so that all have the same. It holds secrets: it goes
  over the link between the processes and nowhere else.
- First every worker that serves is asked whether it can change, which makes it open what it needs; then all do. If one
  cannot, none does. A worker that promised it and then fails is ended, and another starts with the new config.
- A worker that is still starting is told the change without being asked: it makes it before it serves long.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from backends.base import OptionsError
from gateway import logs
from gateway.adopt import Prepared, Process
from gateway.config.address import Listen
from gateway.config.data import Data
from gateway.config.disk import Disk, Taken
from gateway.config.file import Loaded, read
from gateway.config.outcome import Outcome, Refused
from gateway.config.problems import ConfigError
from gateway.config.schema import Config
from gateway.config.section import validate
from gateway.fleet.fleet import Fleet
from gateway.link import Link, Message
from gateway.listening import opened, staying, why_not
from gateway.reload import Applied
from gateway.store.opening import staying as same_store

log = logging.getLogger("gateway.workers")

PATIENCE = 15.0
"""Seconds a worker may take to try a config, and again to change to it."""
RELOAD = 60.0
"""Seconds a reload may take, all workers included."""


class Handed:
    """What a worker is started with: what the master has read, where it listens, and which profile is active."""

    def __init__(self, path: Path, disk: Disk, listen: Listen, port: int, data: Data | None) -> None:
        """Hand on what was read from `disk`.

        `listen` is the address as the config has it; `port` the real port. `data` is the store that is open, which may
        be another one than the config says.
        """
        self.port = port
        self.profile: str | None = None
        self.content = {
            "path": str(path),
            "taken": disk.taken(),
            "listen": [listen.host, listen.port],
            "port": port,
            "data": None if data is None else data.written(),
        }

    def encode(self) -> bytes:
        """Return it as bytes for another process."""
        return json.dumps({**self.content, "profile": self.profile}).encode()


def received(data: bytes) -> tuple[Loaded, Listen, str | None]:
    """Return the config that a worker is to run by, where it listens, and its profile. Raises ConfigError."""
    content = json.loads(data)
    loaded = _loaded(content)
    host, port = content["listen"]
    store = None if content["data"] is None else validate(Data, content["data"])
    server = loaded.config.server.model_copy(update={"listen": Listen(host, port), "data": store})
    config = loaded.config.model_copy(update={"server": server})
    loaded = dataclasses.replace(loaded, config=config)
    return loaded, Listen(host, content["port"]), content["profile"]


def _loaded(content: Message) -> Loaded:
    return read(Path(content["path"]), os.environ, Taken(content["taken"]))


class Follower:
    """A worker's part: does what the master says, one after the other."""

    def __init__(self, link: Link, process: Process, told: asyncio.Queue[Message]) -> None:
        """Change this process as the messages in `told` say, and answer them over the link."""
        self._link = link
        self._process = process
        self._told = told

    async def run(self) -> None:
        """Work until cancelled."""
        prepared: Prepared | None = None
        while True:
            message = await self._told.get()
            try:
                if message["kind"] == "prepare":
                    prepared = self._prepared(message)
                elif message["kind"] == "commit" and prepared is not None:
                    ready, prepared = prepared, None
                    await self._process.commit(ready, message["move"])
                    self._link.answer(message, True)
                elif message["kind"] == "use_profile":
                    self._process.use_profile(message["name"])
                    self._link.answer(message, None)
                elif message["kind"] == "outcome":
                    self._process.told(Outcome.of(message["outcome"]))
                elif message["kind"] == "abort" and prepared is not None:
                    self._process.abort(prepared)
                    prepared = None
            except Exception:
                # The master gets no answer, and does without this worker.
                log.exception("the config could not be applied, which is a bug")

    def _prepared(self, message: Message) -> Prepared | None:
        try:
            prepared = self._process.prepare(_loaded(message), Listen(*message["where"]))
        except (ConfigError, Refused) as error:
            self._link.answer(message, {"refused": str(error), "flaw": ""})
            return None
        self._link.answer(message, {"refused": "", "flaw": prepared.flaw})
        return prepared


class Leader:
    """The master's part: the target of its reloads."""

    def __init__(self, path: Path, loaded: Loaded, disk: Disk, port: int, fleet: Fleet) -> None:
        """Begin with a config that was read from `disk` by `path`, and is in force. `port` is the real port."""
        self._path = path
        self._config = loaded.config
        self._port = port
        self._fleet = fleet
        server = loaded.config.server
        self.handed = Handed(path, disk, server.listen, port, server.data)
        """What a worker that starts now is to run by."""
        self.serving: Callable[[], Collection[Link]] = tuple
        """Tells the workers that serve and answer."""
        self.links: Callable[[], Collection[Link]] = tuple
        """Tells all workers."""
        self.end: Callable[[Link], None] = lambda link: None
        """Ends a worker."""

    async def adopt(self, loaded: Loaded, disk: Disk) -> Applied:
        """Have all workers and the fleet run by a config. Raises Refused where one cannot."""
        try:
            self._fleet.check(loaded.config)
        except OptionsError as error:
            raise Refused(str(error)) from None
        moving = loaded.config.server.listen != self._config.server.listen
        where, flaw = self._where(loaded.config) if moving else (loaded.config.server.listen, "")
        listen = loaded.config.server.listen
        data = same_store(loaded.config, self._config)[0].server.data
        handed = Handed(self._path, disk, listen, where.port if moving else self._port, data)
        asked = tuple(self.serving())
        message: dict[str, Any] = {**handed.content, "where": [where.host, where.port]}
        answers = await self._all(asked, "prepare", message)
        flaw = flaw or next((told["flaw"] for told in answers.values() if told and told["flaw"]), "")
        try:
            config, notes = self._agreed(loaded.config, flaw, answers)
        except Refused:
            for link in asked:
                link.tell("abort")
            raise
        before, self._config = self._config, config
        if flaw or not moving:
            handed = Handed(self._path, disk, config.server.listen, self._port, data)
        handed.profile = self.handed.profile if self.handed.profile in config.profiles else None
        self._port, self.handed = handed.port, handed
        self._fleet.apply(config)
        if config.server.log != before.server.log:
            logs.change(config.server.log.level, config.server.log.format)
        for link in set(self.links()) - set(asked):
            link.tell("prepare", number=-1, **message)
            link.tell("commit", number=-1, move=not flaw)
        done = await self._all(asked, "commit", {"move": not flaw})
        for link in (link for link, told in done.items() if told is None and link in self.links()):
            log.error("a worker did not take the new config; another one starts with it")
            self.end(link)
        return Applied(config, notes)

    async def use_profile(self, name: str | None) -> None:
        """Have all workers use a profile, or none, also those that start later."""
        self.handed.profile = name
        asked = tuple(self.serving())
        for link in set(self.links()) - set(asked):
            link.tell("use_profile", number=-1, name=name)
        await self._all(asked, "use_profile", {"name": name})

    def told(self, outcome: Outcome) -> None:
        """Tell all workers what became of an attempt to reload."""
        for link in self.links():
            link.tell("outcome", outcome=dataclasses.asdict(outcome))

    def _agreed(self, config: Config, flaw: str, answers: dict[Link, Any]) -> tuple[Config, tuple[str, ...]]:
        """Return the config that all can run by, and notes. Raises Refused."""
        for link, told in answers.items():
            if told is None and link in self.links():
                raise Refused("a worker did not answer in time; try again")
            if told is not None and told["refused"]:
                raise Refused(told["refused"])
        config, notes = same_store(config, self._config)
        if flaw:
            config, further = staying(config, self._config, flaw)
            notes += further
        return config, notes

    def _where(self, config: Config) -> tuple[Listen, str]:
        """Return the address that workers are to listen at, and why it cannot be had; its port is a real one."""
        wanted = config.server.listen
        try:
            # Without sharing, a port of another program is found out. Our own workers share theirs.
            with opened(wanted, shared=wanted.port == self._port) as listener:
                return Listen(wanted.host, listener.getsockname()[1]), ""
        except OSError as error:
            return wanted, why_not(wanted, error)

    async def _all(self, links: Collection[Link], kind: str, content: dict[str, Any]) -> dict[Link, Any]:
        """Ask workers. Return the answer of each; None for one that gives none."""

        async def one(link: Link) -> Any:
            try:
                return await link.ask(kind, PATIENCE, **content)
            except TimeoutError:
                return None

        return dict(zip(links, await asyncio.gather(*map(one, links)), strict=True))
