"""The bundles of a directory by their names: ids, the latest, and aliases.

An alias is a small file beside the bundles: ``models/_aliases/serving.json`` names the one that
serves, and those that did before. It is replaced atomically, so that a reader finds the old or the
new one.
"""

import itertools
import logging
from datetime import UTC, datetime

from pydantic import Field

from conf import publishing, storage
from conf.errors import ConfigError, DataError, RunError
from conf.manifest import FILE_NAME as MANIFEST
from conf.manifest import CheckResult
from conf.section import Section
from nfm.bundle_record import RECORD

LATEST = "latest"
SERVING, CANDIDATE = "serving", "candidate"
ALIASES = (SERVING, CANDIDATE)
_DIRECTORY = "_aliases"  # holds no manifest: it is not taken for a bundle
_KEPT = 50  # bundles that an alias named before
TIME = "%Y%m%dT%H%M%S"  # what an id begins with
_NEVER = datetime.min.replace(tzinfo=UTC)

logger = logging.getLogger(__name__)


class Gate(Section):
    """How a candidate did beside the model that served."""

    model_id: str = Field(description="The candidate.")
    serving: str | None = Field(description="The bundle that served; none where none did.")
    features: str = Field(description="Where the rows are that both were judged on.")
    split: str
    rows: int
    metrics: dict[str, dict[str, float]] = Field(description="Per bundle, docs/metrics.md.")
    checks: list[CheckResult] = Field(description="What was expected and what was found.")
    judged_at: str

    @property
    def passed(self) -> bool:
        """Whether the candidate may serve."""
        return all(check.outcome != "fail" for check in self.checks)


class Promotion(Section):
    """When and why an alias came to name a bundle."""

    model_id: str
    since: str
    reason: str
    gate: Gate | None = Field(description="None where none was held.")


class Alias(Promotion):
    """What an alias names, and what it named before."""

    earlier: list[Promotion] = Field(description="The newest first.")


def resolve_bundle(models: str, name: str) -> str:
    """The absolute path of a bundle.

    One that is being copied there is not the latest before its last file is; asked for by name, it
    is found, and loading it says what it lacks.

    Args:
        models: Directory of the bundles.
        name: ``latest`` in it, an alias, an id, or a path.

    Raises:
        ConfigError: There is no such bundle.
    """
    models, name = models.rstrip("/"), name.rstrip("/")
    if name == LATEST:
        found = bundles(models)
        if not found:
            raise ConfigError(f"no bundle in '{models}'; train one (jobs.train)")
        name = found[-1]
    elif name in ALIASES:
        return _named_by(models, name)
    for path in (f"{models}/{name}", name):
        if _is_there(path):
            return storage.absolute(path)
    raise ConfigError(
        f"no bundle '{name}' in '{models}' or by that path; 'jobs.models list' says what is there"
    )


def resolve_start(models: str, name: str) -> str | None:
    """The bundle to begin from: as ``resolve_bundle``, but none where an alias names none yet.

    So the same command runs in the first night and in all others.
    """
    if name in ALIASES and read_alias(models, name) is None:
        logger.warning("'%s' names no bundle in '%s' yet: begun from none", name, models)
        return None
    return resolve_bundle(models, name)


def bundles(models: str) -> list[str]:
    """The ids of the bundles in a directory, in the order in which they were trained.

    Those whose names do not say when, such as copies by hand, come first: none is the latest beside
    one that was trained.
    """
    fs, plain = storage.filesystem(models)
    names = [path.split("/")[-2] for path in fs.glob(f"{plain}/*/{RECORD}")]
    return sorted(names, key=lambda name: (trained_at(name) or _NEVER, name))


def _named_by(models: str, alias: str) -> str:
    named = read_alias(models, alias)
    if named is None:
        raise ConfigError(
            f"'{alias}' names no bundle in '{models}' yet; promote one (jobs.models promote)"
        )
    path = f"{models}/{named.model_id}"
    if not _is_there(path):
        raise ConfigError(
            f"'{alias}' names bundle '{named.model_id}', which is gone from '{models}'; put it "
            f"back, go back to the one before (jobs.models rollback), or promote another"
        )
    return storage.absolute(path)


def _is_there(path: str) -> bool:
    return any(storage.exists(f"{path}/{file}") for file in (RECORD, MANIFEST))


def trained_at(model_id: str) -> datetime | None:
    """When a training began, in UTC; None where the name does not say."""
    try:
        return datetime.strptime(model_id.partition("-")[0], TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def now() -> str:
    """The time as it is recorded."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_alias(models: str, alias: str) -> Alias | None:
    """What an alias names; None where nothing was promoted to it yet.

    Raises:
        DataError: Its file is damaged.
    """
    path = _path(models, alias)
    try:
        return Alias.model_validate_json(storage.read_text(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"alias file '{path}' is damaged ({str(error).splitlines()[0]}); remove it, and "
            f"promote a bundle (jobs.models promote)"
        ) from None


def promote(models: str, alias: str, promotion: Promotion, before: str | None) -> None:
    """Have an alias name another bundle.

    Args:
        models: Directory of the bundles.
        alias: Its name.
        promotion: The bundle.
        before: What the alias named when this was decided.

    Raises:
        RunError: Another run changes the alias, or has changed it since.
    """
    with publishing.only_run(_path(models, alias)):
        found = read_alias(models, alias)
        if (found.model_id if found else None) != before:
            raise RunError(
                f"'{alias}' was changed by another run meanwhile, and stays as that one left it; "
                f"run again if this bundle is to take its place"
            )
        earlier = [_as_promotion(found), *found.earlier] if found else []
        _write(models, alias, promotion, earlier[:_KEPT])


def still_there(models: str, alias: Alias | None) -> list[Promotion]:
    """What an alias could go back to, the newest first: bundles that are gone are passed over.

    Where those between two promotions of a bundle are gone, so is the earlier of them.
    """
    if alias is None:
        return []
    there = [one for one in alias.earlier if _is_there(f"{models}/{one.model_id}")]
    return list(itertools.dropwhile(lambda one: one.model_id == alias.model_id, there))


def roll_back(models: str, alias: str) -> Alias:
    """Have an alias name the bundle that it named before this one; again, the one before that.

    Returns:
        What it names now.

    Raises:
        ConfigError: It named none before that is still there.
        RunError: Another run changes the alias.
    """
    with publishing.only_run(_path(models, alias)):
        found = read_alias(models, alias)
        there = still_there(models, found)
        if found is None or not there:
            raise ConfigError(
                f"'{alias}' named no bundle before this one that is still in '{models}': there "
                f"is nothing to go back to"
            )
        last, *earlier = there
        reason = f"rolled back from {found.model_id}"
        return _write(
            models, alias, last.model_copy(update={"since": now(), "reason": reason}), earlier
        )


def _write(models: str, alias: str, promotion: Promotion, earlier: list[Promotion]) -> Alias:
    made = Alias(**dict(promotion), earlier=earlier)
    storage.write_text(_path(models, alias), made.model_dump_json(indent=1) + "\n")
    return made


def _as_promotion(alias: Alias) -> Promotion:
    return Promotion(**{name: getattr(alias, name) for name in Promotion.model_fields})


def _path(models: str, alias: str) -> str:
    return f"{models.rstrip('/')}/{_DIRECTORY}/{alias}.json"
