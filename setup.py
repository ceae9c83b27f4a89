"""Builds the native engine beside the package; everything else is in pyproject.toml.

Its kernels are compiled once for each instruction set and chosen where they run. Without a compiler the package is
installed without the engine, and models compute with PyTorch's own operations.
"""

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno"]
FLAGS += ["-fno-trapping-math", "-Wall", "-Wextra", "-Wno-psabi"]
# GCC 12 takes its own intrinsics for uninitialised.
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16"]
AVX512 += ["-mprefer-vector-width=512"]
AMX = [*AVX512, "-mamx-tile", "-mamx-int8", "-mamx-bf16"]
INSTRUCTION_SETS = {"portable": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {"avx2": AVX2, "avx512": AVX512, "amx": AMX}


class BuildNative(build_ext):
    """One shared library, which is no Python module: it is found by its name, not by Python's version."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        with ThreadPoolExecutor() as pool:
            kernels = dict(zip(INSTRUCTION_SETS, pool.map(self._kernels, INSTRUCTION_SETS), strict=True))
        if not kernels["portable"]:
            raise CompileError("the compiler cannot build the engine")
        known = [(f"QUINTET_HAS_{name.upper()}", "1") for name, objects in kernels.items() if objects]
        objects = [file for found in kernels.values() for file in found]
        objects += self._compile(["native/engine.cpp", "native/threads.cpp"], known, [], "common")
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), target_lang="c++", libraries=["pthread"]
        )

    def _kernels(self, name: str) -> list[str]:
        """The kernels for an instruction set; none if the compiler does not know it."""
        try:
            return self._compile(["native/network.cpp"], [("QUINTET_ISA", name)], INSTRUCTION_SETS[name], name)
        except CompileError as error:
            self.warn(f"no kernels for {name}: {error}")
            return []

    def _compile(self, sources: list[str], macros: list[tuple[str, str]], flags: list[str], folder: str) -> list[str]:
        return self.compiler.compile(
            sources,
            output_dir=str(Path(self.build_temp) / folder),
            macros=macros,
            extra_preargs=[*FLAGS, *flags],
            depends=[str(path) for path in Path("native").glob("*.h")],
        )


setup(
    ext_modules=[Extension("quintet.engine.libquintet", sources=["native/engine.cpp"], optional=True)],
    cmdclass={"build_ext": BuildNative},
)
