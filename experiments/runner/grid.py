"""A grid: one file that says which trainings there are, as differences from configurations."""

import dataclasses
import functools
import importlib.util
import itertools
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from detectron2.config import CfgNode

from enl_detectron2.training.config import keys_twice, load_config
from enl_detectron2.utils.errors import ConfigError, MissingFile
from enl_detectron2.utils.text import one_line

ROOT = Path(__file__).resolve().parents[2]
AXES = ("systems", "data", "variants", "seeds")
OF_SYSTEM = ("config", "options", "baseline", "image_size")
PATHS = ("config", "train", "scenes", "report", "papers", "results")  # beside the grid's file


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        system: a key of the grid's ``systems``.
        data: a key of its ``data``.
        variant: a key of its ``variants``: a schedule, or whatever else is varied.
        seed: of the weights and the order of images.
    """

    system: str
    data: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """What its folder is called, and what the command line knows it by.

        A grid in which two runs are called alike is refused by :func:`load_grid`.
        """
        parts = map(str, dataclasses.astuple(self))
        return "_".join(part.replace(" ", "-").replace("/", "-") for part in parts)


@dataclass(frozen=True)
class Grid:
    """The content of a grid's file; its README section says what the keys mean."""

    file: Path
    output: Path
    results: Path
    train: Path
    systems: dict[str, dict]
    config: Path | None = None
    data: dict[str, dict] = field(default_factory=lambda: {"": {}})
    variants: dict[str, dict] = field(default_factory=lambda: {"": {}})
    seeds: tuple[int, ...] = (1,)
    blocks: tuple[dict, ...] = ({},)
    options: dict[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    start: dict | None = None
    scenes: Path | None = None
    report: Path | None = None
    papers: Path | None = None
    image_size: tuple[int, int] | None = None
    rate: dict[str, Any] = field(default_factory=dict)
    code: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return self.file.stem

    def runs(self) -> list[Run]:
        """All runs, each once, in the order of the file's blocks."""
        runs = []
        for block in self.blocks:
            chosen = {axis: _as_list(block.get(axis, getattr(self, axis))) for axis in AXES}
            # Seeds outside, systems inside: what is to be compared is done side by side.
            runs += [
                Run(system, data, variant, seed)
                for seed, data, variant, system in itertools.product(
                    *(chosen[axis] for axis in ("seeds", "data", "variants", "systems"))
                )
            ]
        return list(dict.fromkeys(runs))

    def check(self) -> None:
        """
        Raises:
            ConfigError: if a block of runs names what isn't there, two runs have the same name, or
                two systems the same configuration; names them.
        """
        for block, axis in itertools.product(self.blocks, ("systems", "data", "variants")):
            for name in _as_list(block.get(axis, [])):
                if name not in (known := getattr(self, axis)):
                    raise ConfigError(
                        f"{self.file}: runs: {name!r} is none of its {axis}: {', '.join(known)}"
                    )
        named: dict[str, Run] = {}
        configured: dict[tuple, list[Run]] = {}
        for run in dict.fromkeys([*self.runs(), *filter(None, map(self.start_of, self.runs()))]):
            if (other := named.setdefault(run.name, run)) != run:
                raise ConfigError(
                    f"{self.file}: {dataclasses.astuple(other)} and {dataclasses.astuple(run)} "
                    f"would both be the run {run.name}; rename one"
                )
            configured.setdefault((run.data, run.variant), []).append(run)
        for runs in configured.values():  # one seed says what all do
            runs = [run for run in runs if run.seed == runs[0].seed]
            configurations = [self.configuration(run) for run in runs]
            for cfg in configurations:
                cfg.OUTPUT_DIR = ""
            for (a, first), (b, second) in itertools.combinations(zip(runs, configurations), 2):
                if first == second:
                    raise ConfigError(
                        f"{self.file}: systems {a.system!r} and {b.system!r} have the same "
                        f"configuration ({a.name}, {b.name})"
                    )

    def folder(self, run: Run) -> Path:
        return self.output / "runs" / run.name

    def weights(self, run: Run) -> Path:
        """What a training ends with."""
        return self.folder(run) / "model_final.pth"

    def start_of(self, run: Run) -> Run | None:
        """The training whose weights this one goes on from, of the same seed."""
        if self.start is None or self.is_start(run):
            return None
        own = run.system in self.start.get("own", ())
        system = run.system if own else self.start["system"]
        return Run(system, self.start["data"], self.start["variant"], run.seed)

    def is_start(self, run: Run) -> bool:
        """Whether it is one that others go on from, and so no row of the grid."""
        return self.start is not None and (run.data, run.variant) == (
            self.start["data"],
            self.start["variant"],
        )

    def baseline_of(self, system: str) -> str | None:
        """What a system's differences are taken to; None for a baseline itself."""
        baseline = self.systems[system].get("baseline", self.baseline)
        return None if baseline == system else baseline

    def config_of(self, system: str) -> Path:
        return self.systems[system].get("config") or self.config

    def configuration(self, run: Run) -> CfgNode:
        """The run's configuration, as train_net.py will have it.

        Raises:
            ConfigError: if an option isn't right; names the grid and the run.
        """
        if run not in self._loaded:
            words = [word for pair in self.words(run).items() for word in pair]
            try:
                self._loaded[run] = load_config(str(self.config_of(run.system)), words)
            except (ConfigError, AssertionError, KeyError, TypeError, ValueError) as error:
                # Ours, and those that yacs raises for a key or a value.
                raise ConfigError(f"{self.file}: {run.name}: {error}") from error
        return self._loaded[run].clone()

    @functools.cached_property
    def _loaded(self) -> dict[Run, CfgNode]:
        return {}  # a hundred runs are asked for theirs every few seconds

    def words(self, run: Run) -> dict[str, str]:
        """The differences to the configuration's file, as words of a command line.

        The more specific has the last word: the grid's options, the system's, the data's, the
        variant's, the start's.
        """
        options = self.options | self.systems[run.system].get("options", {})
        if module := self.scene_module():
            options |= module.options(run, self.output / "scenes")
        options |= (self.data[run.data] or {}) | (self.variants[run.variant] or {})
        if start := self.start_of(run):
            options["MODEL.WEIGHTS"] = str(self.weights(start))
        elif self.is_start(run):
            options |= self.start.get("options", {})
        options |= {"SEED": run.seed, "OUTPUT_DIR": str(self.folder(run))}
        return {key: str(value) for key, value in options.items()}

    def prepare(self, run: Run) -> None:
        """Makes the data of a run, unless it is there, where a grid makes its own."""
        if module := self.scene_module():
            module.prepare(run, self.output / "scenes")

    def scene_module(self) -> ModuleType | None:
        return load_module(self.scenes) if self.scenes else None

    def register(self) -> None:
        """What the grid's training program registers, in this process."""
        _register(self.train)


def load_grid(file: str | Path, output: str | Path | None = None) -> Grid:
    """The grid of a file.

    Args:
        file: YAML.
        output: where its runs are kept; output/experiments/<the file's name> if None.

    Raises:
        MissingFile: (a FileNotFoundError) if a file isn't there.
        ConfigError: (a ValueError) if a key isn't known or a value isn't right; names both.
    """
    file = Path(file).resolve()
    content = _read(file)
    blocks = tuple(content.pop("runs", [{}]))
    defaults = {
        "train": ROOT / "train_net.py",
        "results": file.parent / "results" / f"{file.stem}.jsonl",
    }
    output = Path(output or ROOT / "output" / "experiments" / file.stem).resolve()
    known = {each.name for each in dataclasses.fields(Grid)} - {"file", "output", "blocks"}
    if unknown := sorted(set(content) - known):
        raise ConfigError(
            f"{file}: {unknown[0]} is no key of a grid; it has {', '.join(sorted(known))}, runs"
        )
    for key in ("systems", "data", "variants"):
        if key in content:
            content[key] = _named(file, key, content[key])
    if "systems" not in content:
        raise ConfigError(f"{file}: systems is missing, the compared configurations by name")
    for key in ("seeds", "code"):
        if key in content:
            content[key] = tuple(_as_list(content[key]))
    grid = Grid(file=file, output=output, blocks=blocks, **(defaults | content))
    written = [(f"systems: {name}", one, OF_SYSTEM) for name, one in grid.systems.items()]
    for part, keys, legal in written + [("runs", block, AXES) for block in blocks]:
        if unknown := sorted(set(keys) - set(legal)):  # which would change nothing
            has = ", ".join(legal)
            raise ConfigError(f"{file}: {part}: {unknown[0]!r} must be one of {has}")
    for system in grid.systems:
        if not (config := grid.config_of(system)) or not config.is_file():
            raise MissingFile(f"{file}: systems: {system}: there is no configuration {config}")
        baseline = grid.baseline_of(system)
        if baseline is not None and baseline not in grid.systems:
            raise ConfigError(f"{file}: systems: {system}: baseline {baseline!r} is no system")
    grid.check()
    return grid


@functools.cache  # nothing can be registered twice
def _register(program: Path) -> None:
    runpy.run_path(str(program), run_name="registered by the runner")


@functools.cache
def load_module(path: Path) -> ModuleType:
    """A Python file that a grid names."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise MissingFile(f"there is no grid {file}")
    try:
        text = file.read_text()
        twice = list(keys_twice(yaml.compose(text, yaml.SafeLoader)))
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is no YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is no grid: it must be a mapping with the key systems")
    if twice:  # of two systems of one name, say, the first would be left out
        raise ConfigError(f"{file}: {twice[0]} is there more than once")
    content = _with_paths(content, file.parent)
    systems = content.get("systems")
    for of_system in systems.values() if isinstance(systems, dict) else ():
        if isinstance(of_system, dict):
            of_system.update(_with_paths(of_system, file.parent))
    base = content.pop("_BASE_", None)
    return content if base is None else _read((file.parent / base).resolve()) | content


def _with_paths(content: dict, folder: Path) -> dict:
    return {
        key: (folder / value).resolve() if key in PATHS and value else value
        for key, value in content.items()
    }


def _named(file: Path, key: str, value: Any) -> dict[str, dict]:
    """A mapping of names to mappings; a list or one name are names without differences."""
    if isinstance(value, dict):
        named = {str(name): of_name or {} for name, of_name in value.items()}
        if all(isinstance(of_name, dict) for of_name in named.values()):
            return named
        raise ConfigError(f"{file}: {key}: each name must have a mapping of options")
    return {str(name): {} for name in _as_list(value)}


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple, dict)) else [value]
