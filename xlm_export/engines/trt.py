"""What talks to TensorRT: `tensorrt` (10 and 11) and `tensorrt_rtx`, two modules with one API.

The differences: `tensorrt_rtx` compiles for named GPU architectures and needs no GPU for it, while `tensorrt` measures
kernels on the GPU at hand and builds for that one.
"""

from __future__ import annotations

import functools
import importlib
import re
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from xlm_runtime.bundle.engine_stamp import FLAVORS, EngineProfile
from xlm_runtime.errors import EngineError, InputError, MissingExtraError

if TYPE_CHECKING:
    import tensorrt

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

# Of the verbose messages, thousands for each profile, only these are read.
_TELLING = re.compile(r"self-attention pattern|LayerType: ")
OPTIMIZATION_LEVELS = range(6)


@dataclass(frozen=True)
class Message:
    """A line of TensorRT's log; `severity` is ERROR, INTERNAL_ERROR, WARNING, INFO or VERBOSE."""

    severity: str
    text: str


class BuilderModule(Protocol):
    """What is used of either module. What `tensorrt_rtx` alone has is asked for by name."""

    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    Dims: type[tensorrt.Dims]
    ILogger: type[tensorrt.ILogger]
    IProgressMonitor: type[tensorrt.IProgressMonitor]
    LayerInformationFormat: type[tensorrt.LayerInformationFormat]
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    ProfilingVerbosity: type[tensorrt.ProfilingVerbosity]
    Runtime: type[tensorrt.Runtime]


if TYPE_CHECKING:
    _is_one: BuilderModule = tensorrt


@dataclass(frozen=True)
class Parsed:
    """A network, and the builder and the parser that made it, which have to outlive it."""

    network: tensorrt.INetworkDefinition
    builder: tensorrt.Builder
    parser: tensorrt.OnnxParser


@dataclass
class BuildOptions:
    """How to build. `gpu_archs` are such as "sm89"; with `tensorrt` they name the GPU at hand.

    `lean_runtime` is None, "included" or "excluded", see `EngineStamp`.
    """

    gpu_archs: tuple[str, ...]
    optimization_level: int | None = None
    timing_cache: bytes | None = None
    lean_runtime: str | None = None


class Toolkit:
    """One TensorRT module.

    Args:
        flavor: "tensorrt" or "tensorrt-rtx"; by default the first of them that is installed.

    Raises:
        InputError: an unknown flavour.
        MissingExtraError, EngineError: it is not installed.
    """

    def __init__(self, flavor: str | None = None) -> None:
        if flavor is not None and flavor not in FLAVORS:
            raise InputError(f"Unknown flavor '{flavor}'; expected one of {', '.join(FLAVORS)}.")
        self.flavor, module = _import(FLAVORS if flavor is None else (flavor,))
        self.api: BuilderModule = module
        self.version: str = module.__version__
        self._architectures = getattr(module, "ComputeCapability", None)
        self._logger = _logger(MODULES[self.flavor])
        self.messages: list[Message] = []
        self._logger.messages = self.messages

    def available_archs(self) -> tuple[str, ...]:
        """The architectures that this module compiles for without the GPU; none where it needs the GPU itself."""
        if self._architectures is None:
            return ()
        names = (name.lower() for name in self._architectures.__members__)
        return tuple(sorted((name for name in names if name.startswith("sm")), key=lambda name: int(name[2:])))

    def parse(self, path: Path) -> Parsed:
        """The graph as a strongly typed network.

        Raises:
            EngineError: what TensorRT's parser says, with the node that it stumbles over.
        """
        try:
            builder = self.api.Builder(self._logger)
        except TypeError as error:  # the module's way to say that it got none
            raise EngineError(f"{self.flavor} {self.version} cannot start: {self._last_error() or error}.") from error
        network = builder.create_network(1 << int(self.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = self.api.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(path)):
            raise EngineError(_parser_error(parser, path, f"{self.flavor} {self.version}"))
        return Parsed(network, builder, parser)

    def build(
        self,
        parsed: Parsed,
        profiles: Sequence[EngineProfile],
        options: BuildOptions,
    ) -> tuple[tensorrt.IHostMemory, bytes | None]:
        """The plan (a buffer) of what `parse` gave, and the timing cache where one was asked for.

        A user's interrupt (Ctrl-C) ends the build.

        Raises:
            EngineError: TensorRT refuses a profile or cannot build.
        """
        config = parsed.builder.create_builder_config()
        config.profiling_verbosity = self.api.ProfilingVerbosity.DETAILED
        config.clear_flag(self.api.BuilderFlag.TF32)  # on by default; products of fp32 graphs would keep 10 bits
        if options.lean_runtime is not None:
            config.set_flag(self.api.BuilderFlag.VERSION_COMPATIBLE)
        if options.lean_runtime == "excluded":
            config.set_flag(self.api.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        self._add_profiles(parsed, config, profiles)
        if self._architectures is not None:
            of_rtx: Any = config
            of_rtx.num_compute_capabilities = len(options.gpu_archs)
            for i, name in enumerate(options.gpu_archs):
                of_rtx.set_compute_capability(self._architectures.__members__[name.upper()], i)
        cache = None
        if options.timing_cache is not None:
            cache = config.create_timing_cache(options.timing_cache)
            dropped = any("deserialize timing cache" in message.text for message in self.messages)  # a warning to it
            if dropped or cache is None or not config.set_timing_cache(cache, False):
                raise EngineError(
                    f"The timing cache does not fit {self.flavor} {self.version} and this GPU; name another file."
                )
        interrupt = _Interrupt()
        config.progress_monitor = monitor = _monitor(self.api, interrupt)
        with interrupt:
            plan = parsed.builder.build_serialized_network(parsed.network, config)
        del monitor  # lives as long as the build
        if interrupt.seen:
            raise KeyboardInterrupt
        if plan is None:
            raise EngineError(f"{self.flavor} {self.version} cannot build the engine: {self._last_error()}.")
        return plan, None if cache is None else bytes(config.get_timing_cache().serialize())

    def inspect(self, plan: tensorrt.IHostMemory) -> dict[str, Any]:
        """What the engine inspector and the engine say; needs the GPU that the plan is for.

        Raises:
            EngineError: the plan cannot be loaded here.
        """
        runtime = self.api.Runtime(self._logger)
        runtime.engine_host_code_allowed = True  # a lean runtime that this module itself put into the plan
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{self.flavor} {self.version} built a plan that it cannot load: {self._last_error()}.")
        inspector = engine.create_engine_inspector()
        information = inspector.get_engine_information(self.api.LayerInformationFormat.JSON)
        memory = [int(engine.get_device_memory_size_for_profile_v2(i)) for i in range(engine.num_optimization_profiles)]
        return {"layers": information, "device_memory_of_profiles": memory}

    def _add_profiles(self, parsed: Parsed, config: tensorrt.IBuilderConfig, profiles: Sequence[EngineProfile]) -> None:
        inputs = {parsed.network.get_input(i).name for i in range(parsed.network.num_inputs)}
        for profile in profiles:
            made = parsed.builder.create_optimization_profile()
            for name, shapes in profile.shapes.items():
                if name in inputs:
                    low, best, high = (self.api.Dims(list(shape)) for shape in shapes)
                    made.set_shape(name, low, best, high)
            if config.add_optimization_profile(made) < 0:
                raise EngineError(f"{self.flavor} {self.version} refuses the profile '{profile.name}': "
                                  f"{self._last_error()}.")  # fmt: skip

    def _last_error(self) -> str:
        """The last error of the log, in one line; it is TensorRT's own."""
        errors = [message.text for message in self.messages if "ERROR" in message.severity]
        errors = [
            text for text in errors if "catchCudaError" not in text
        ] or errors  # that there is no driver is no news
        if not errors:
            return "its log holds no error (a logger that another part of this process registered may have it)"
        return " ".join(errors[-1].split()).rstrip(".")


def _import(flavors: tuple[str, ...]) -> tuple[str, Any]:
    for flavor in flavors:
        try:
            return flavor, importlib.import_module(MODULES[flavor])
        except ImportError as error:
            missing = error
    if flavors == ("tensorrt",):  # no extra brings it
        raise EngineError(
            "An engine of the flavor 'tensorrt' needs the package 'tensorrt', which is not installed; install it from "
            "NVIDIA (pip install tensorrt), or use --flavor tensorrt-rtx."
        ) from missing
    raise MissingExtraError("tensorrt-rtx", "tensorrt", "A TensorRT engine") from missing


@functools.cache
def _logger(module: str) -> Any:
    """The one logger of a module in this process, a `tensorrt.ILogger` with a list `messages`.

    TensorRT keeps the first that it is given.
    """
    if TYPE_CHECKING:
        from tensorrt import ILogger
    else:
        ILogger = importlib.import_module(module).ILogger  # noqa: N806

    class Logger(ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[Message] = []

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity.name != "VERBOSE" or _TELLING.search(msg):
                self.messages.append(Message(severity.name, msg))

    return Logger()


class _Interrupt:
    """Notes a Ctrl-C instead of raising KeyboardInterrupt, which TensorRT swallows where it calls Python."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> None:
        self._in_main = threading.current_thread() is threading.main_thread()  # others cannot set handlers
        if self._in_main:
            self._before = signal.signal(signal.SIGINT, lambda number, frame: setattr(self, "seen", True))

    def __exit__(self, *error: object) -> None:
        if self._in_main:
            signal.signal(signal.SIGINT, self._before or signal.default_int_handler)


def _monitor(api: BuilderModule, interrupt: _Interrupt) -> tensorrt.IProgressMonitor:
    """Ends a build that the user interrupts."""
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor
    else:
        IProgressMonitor = api.IProgressMonitor  # noqa: N806

    class Monitor(IProgressMonitor):
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return not interrupt.seen

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()


def _parser_error(parser: tensorrt.OnnxParser, path: Path, who: str) -> str:
    """The parser's first error as one sentence."""
    if not parser.num_errors:
        return f"{who} cannot read '{path}'."
    error = parser.get_error(0)
    text = " ".join(error.desc().split()).rstrip(".")
    if error.code().name.startswith("UNSUPPORTED"):
        text = "the operator is not supported"
    if not error.node_name() and not error.node_operator():
        return f"{who} cannot read '{path}': {text}."
    return (
        f"{who} refuses the node '{error.node_name()}' ({error.node_operator()}) of '{path}': {text}. "
        "The graph needs another operator there, or another --opset."
    )
