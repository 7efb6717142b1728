"""The kernels in machine code, for the processor at hand: bit for bit those of :mod:`gcdl.compressors.kernels.reference`.

Written in LLVM's language, whose vectors say what compilers don't find in loops: that a comparison of 64 numbers *is* 64
bits. llvmlite, the compiler inside numba, turns it into machine code in a few tenths of a second, at the start of a run;
numba itself would take longer just to be imported. Vectors of 64 become whatever registers the processor has.

Each function below handles ``chunks`` of 64 coordinates; what is left over at the end of a vector, and what is rare, is left
to the reference. No operation may be reassociated or fused (LLVM does so only where it is told to).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.kernels.random import ALL, GAMMA, MIX_1, MIX_2, Shorts, Stream16
from gcdl.compressors.kernels.reference import Kernels, Wraps
from gcdl.compressors.kernels.sums import FEW, LANES, Wide
from gcdl.types import Buffer, IntVector, Vector

_CHUNK = 64
_MANY_STEPS = 48  # beyond, looking levels up in a table is faster


def _signed(number: int) -> int:
    """Return a 64-bit constant as LLVM prints it."""
    return number - (1 << 64) if number >> 63 else number


def _function(name: str, parameters: str, body: str) -> str:
    """Return a function that runs ``body`` for each chunk %c of %chunks."""
    return f"""
define void @{name}({parameters}, i64 %chunks) {{
entry:
  %any = icmp sgt i64 %chunks, 0
  br i1 %any, label %loop, label %done
loop:
  %c = phi i64 [ 0, %entry ], [ %next, %end ]
  %first = mul i64 %c, {_CHUNK}
  {body}
  br label %end
end:
  %next = add i64 %c, 1
  %more = icmp slt i64 %next, %chunks
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


def _splat(name: str, scalar: str, element: str, length: int = _CHUNK) -> str:
    return f"""
  %{name}.one = insertelement <{length} x {element}> poison, {element} {scalar}, i64 0
  %{name} = shufflevector <{length} x {element}> %{name}.one, <{length} x {element}> poison, <{length} x i32> zeroinitializer"""


def _load(name: str, pointer: str, element: str = "float", index: str = "%first") -> str:
    return f"""
  %{name}.at = getelementptr {element}, ptr {pointer}, i64 {index}
  %{name} = load <{_CHUNK} x {element}>, ptr %{name}.at, align 1"""


def _store(name: str, pointer: str, element: str = "float") -> str:
    return f"""
  %{name}.to = getelementptr {element}, ptr {pointer}, i64 %first
  store <{_CHUNK} x {element}> %{name}, ptr %{name}.to, align 1"""


def _value(name: str, pointer: str, *, each: bool) -> str:
    """Load a number for each coordinate, or the one for all."""
    if each:
        return _load(name, pointer)
    return f"\n  %{name}.all = load float, ptr {pointer}, align 4" + _splat(name, f"%{name}.all", "float")


# packbits wants the first coordinate in a byte's highest bit; a vector of bits has it in the lowest.
_WRITE_BITS = f"""
  %word = bitcast <{_CHUNK} x i1> %bits to i64
  %mirrored = call i64 @llvm.bitreverse.i64(i64 %word)
  %ordered = call i64 @llvm.bswap.i64(i64 %mirrored)
  %bits.to = getelementptr i64, ptr %out, i64 %c
  store i64 %ordered, ptr %bits.to, align 1"""


def _read_bits(pointer: str) -> str:
    return f"""
  %word.at = getelementptr i64, ptr {pointer}, i64 %c
  %ordered = load i64, ptr %word.at, align 1
  %mirrored = call i64 @llvm.bswap.i64(i64 %ordered)
  %word = call i64 @llvm.bitreverse.i64(i64 %mirrored)
  %bits = bitcast i64 %word to <{_CHUNK} x i1>"""


_PACK = f"""
  {_load("x", "%x.in")}
  %bits = fcmp oge <{_CHUNK} x float> %x, zeroinitializer
  {_WRITE_BITS}"""

_WORDS = _CHUNK // 4
_RANDOM = f"""
  %place = mul i64 %c, {_WORDS}
  {_splat("places", "%place", "i64", _WORDS)}
  %counted = add <{_WORDS} x i64> %places, <{", ".join(f"i64 {i}" for i in range(_WORDS))}>
  {_splat("gamma", str(_signed(GAMMA)), "i64", _WORDS)}
  %stepped = mul <{_WORDS} x i64> %counted, %gamma
  {_splat("origin", "%start", "i64", _WORDS)}
  %z0 = add <{_WORDS} x i64> %stepped, %origin
  {_splat("by30", "30", "i64", _WORDS)}
  {_splat("by27", "27", "i64", _WORDS)}
  {_splat("by31", "31", "i64", _WORDS)}
  {_splat("mix1", str(_signed(MIX_1)), "i64", _WORDS)}
  {_splat("mix2", str(_signed(MIX_2)), "i64", _WORDS)}
  {_splat("second", "%key", "i64", _WORDS)}
  %s0 = lshr <{_WORDS} x i64> %z0, %by30
  %z1 = xor <{_WORDS} x i64> %z0, %s0
  %z2 = mul <{_WORDS} x i64> %z1, %mix1
  %z3 = xor <{_WORDS} x i64> %z2, %second
  %s1 = lshr <{_WORDS} x i64> %z3, %by27
  %z4 = xor <{_WORDS} x i64> %z3, %s1
  %z5 = mul <{_WORDS} x i64> %z4, %mix2
  %s2 = lshr <{_WORDS} x i64> %z5, %by31
  %z6 = xor <{_WORDS} x i64> %z5, %s2
  %unshifted = bitcast <{_WORDS} x i64> %z6 to <{_CHUNK} x i16>
  {_splat("shifts", "%shift", "i16")}
  %r = add <{_CHUNK} x i16> %unshifted, %shifts"""
_STREAM = "i64 %start, i64 %key, i16 %shift"


def _stochastic(*, each: bool) -> str:
    return f"""
  {_load("x", "%x.in")}
  {_value("unit", "%units", each=each)}
  {_RANDOM}
  %scaled = fmul <{_CHUNK} x float> %x, %unit
  {_splat("deltas", "%delta", "float")}
  %threshold = fsub <{_CHUNK} x float> %scaled, %deltas
  %noise = sitofp <{_CHUNK} x i16> %r to <{_CHUNK} x float>
  %bits = fcmp ogt <{_CHUNK} x float> %threshold, %noise
  {_WRITE_BITS}"""


def _fold(*, each: bool) -> str:
    return f"""
  {_load("old", "%source")}
  {_value("plus", "%values", each=each)}
  %minus = fneg <{_CHUNK} x float> %plus
  {_read_bits("%in")}
  %signed = select <{_CHUNK} x i1> %bits, <{_CHUNK} x float> %plus, <{_CHUNK} x float> %minus
  %sum = fadd <{_CHUNK} x float> %old, %signed
  {_store("sum", "%into")}"""


def _ramp(*, each: bool) -> str:
    return f"""
  {_load("old", "%into")}
  {_value("unit", "%units", each=each)}
  {_value("offset", "%offsets", each=each)}
  {_RANDOM}
  %noise = sitofp <{_CHUNK} x i16> %r to <{_CHUNK} x float>
  %scaled = fmul <{_CHUNK} x float> %noise, %unit
  %dither = fadd <{_CHUNK} x float> %scaled, %offset
  %sum = fadd <{_CHUNK} x float> %old, %dither
  {_store("sum", "%into")}"""


def _decode(*, each: bool) -> str:
    """For each chunk: over the octets of rows, over the rows of an octet. ``values`` is (m, stride)."""
    index = "%at" if each else "%base"
    load = f"%plus.at = getelementptr float, ptr %values, i64 {index}\n" + (
        f"  %plus = load <{_CHUNK} x float>, ptr %plus.at, align 1"
        if each
        else "  %plus.all = load float, ptr %plus.at, align 4" + _splat("plus", "%plus.all", "float")
    )
    return f"""
  br label %octets
octets:
  %done.rows = phi i64 [ 0, %loop ], [ %row.next, %octet.end ]
  %total = phi <{_CHUNK} x float> [ zeroinitializer, %loop ], [ %total.next, %octet.end ]
  %limit.full = add i64 %done.rows, 8
  %fits = icmp slt i64 %limit.full, %m
  %limit = select i1 %fits, i64 %limit.full, i64 %m
  br label %rows.loop
rows.loop:
  %row = phi i64 [ %done.rows, %octets ], [ %row.next, %rows.loop ]
  %partial = phi <{_CHUNK} x float> [ zeroinitializer, %octets ], [ %partial.next, %rows.loop ]
  %base = mul i64 %row, %stride
  %at = add i64 %base, %first
  {load}
  %minus = fneg <{_CHUNK} x float> %plus
  %row.at = getelementptr ptr, ptr %rows, i64 %row
  %in = load ptr, ptr %row.at, align 8
  {_read_bits("%in")}
  %signed = select <{_CHUNK} x i1> %bits, <{_CHUNK} x float> %plus, <{_CHUNK} x float> %minus
  %partial.next = fadd <{_CHUNK} x float> %partial, %signed
  %row.next = add i64 %row, 1
  %row.more = icmp slt i64 %row.next, %limit
  br i1 %row.more, label %rows.loop, label %octet.end
octet.end:
  %total.next = fadd <{_CHUNK} x float> %total, %partial.next
  %rows.left = icmp slt i64 %row.next, %m
  br i1 %rows.left, label %octets, label %write
write:
  {_store("total.next", "%into")}"""


def _lanes(value: str, combined: str) -> str:
    """Combine each row of LANES coordinates with the lanes."""
    return f"""
  {_load("x", "%x.in")}
  {value}
  %lane = and i64 %first, {LANES - 1}
  {_load("old", "%lanes", index="%lane")}
  {combined}
  store <{_CHUNK} x float> %new, ptr %old.at, align 1"""


_ABS = f"%value = call <{_CHUNK} x float> @llvm.fabs.v{_CHUNK}f32(<{_CHUNK} x float> %x)"
_SQUARE = f"%value = fmul <{_CHUNK} x float> %x, %x"
_SUM = f"%new = fadd <{_CHUNK} x float> %old, %value"
_LARGER = f"""%larger = fcmp ogt <{_CHUNK} x float> %value, %old
  %new = select <{_CHUNK} x i1> %larger, <{_CHUNK} x float> %value, <{_CHUNK} x float> %old"""

# A level for each number of thresholds that r has reached: they ascend, so the last one reached decides.
_STEPS = f"""
  {_load("old", "%into")}
  {_RANDOM}
  %r.wide = sext <{_CHUNK} x i16> %r to <{_CHUNK} x i32>
  %lowest.all = load float, ptr %levels, align 4
  {_splat("lowest", "%lowest.all", "float")}
  br label %steps
steps:
  %step = phi i64 [ 0, %loop ], [ %step.next, %steps ]
  %level = phi <{_CHUNK} x float> [ %lowest, %loop ], [ %level.next, %steps ]
  %step.next = add i64 %step, 1
  %threshold.at = getelementptr i32, ptr %thresholds, i64 %step
  %threshold.all = load i32, ptr %threshold.at, align 4
  {_splat("threshold", "%threshold.all", "i32")}
  %reached = icmp sge <{_CHUNK} x i32> %r.wide, %threshold
  %higher.at = getelementptr float, ptr %levels, i64 %step.next
  %higher.all = load float, ptr %higher.at, align 4
  {_splat("higher", "%higher.all", "float")}
  %level.next = select <{_CHUNK} x i1> %reached, <{_CHUNK} x float> %higher, <{_CHUNK} x float> %level
  %step.more = icmp slt i64 %step.next, %m
  br i1 %step.more, label %steps, label %last
last:
  {_splat("units", "%unit", "float")}
  %noise = sitofp <{_CHUNK} x i16> %r to <{_CHUNK} x float>
  %scaled = fmul <{_CHUNK} x float> %noise, %units
  %dither = fadd <{_CHUNK} x float> %scaled, %level.next
  %sum = fadd <{_CHUNK} x float> %old, %dither
  {_store("sum", "%into")}"""


def _both(name: str, parameters: str, body: Callable[..., str]) -> str:
    return _function(name, parameters, body(each=False)) + _function(f"{name}_each", parameters, body(each=True))


_SOURCE = f"""
declare i64 @llvm.bitreverse.i64(i64)
declare i64 @llvm.bswap.i64(i64)
declare <{_CHUNK} x float> @llvm.fabs.v{_CHUNK}f32(<{_CHUNK} x float>)
""" + "".join([
    _function("pack", "ptr %x.in, ptr %out", _PACK),
    _both("stochastic", f"ptr %x.in, ptr %units, {_STREAM}, float %delta, ptr %out", _stochastic),
    _function("shorts", f"{_STREAM}, ptr %out", f"{_RANDOM}{_store('r', '%out', 'i16')}"),
    _both("fold", "ptr %in, ptr %values, ptr %source, ptr %into", _fold),
    _both("decode", "ptr %rows, i64 %m, ptr %values, i64 %stride, ptr %into", _decode),
    _both("add_ramp", f"{_STREAM}, ptr %units, ptr %offsets, ptr %into", _ramp),
    _function("add_steps", f"{_STREAM}, ptr %thresholds, i64 %m, float %unit, ptr %levels, ptr %into", _STEPS),
    _function("lanes_abs", "ptr %x.in, ptr %lanes", _lanes(_ABS, _SUM)),
    _function("lanes_square", "ptr %x.in, ptr %lanes", _lanes(_SQUARE, _SUM)),
    _function("maximum", "ptr %x.in, ptr %lanes", _lanes(_ABS, _LARGER)),
])  # fmt: skip


class _Library:
    """The compiled functions; keeps their machine code alive."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features().flatten()
        machine = llvm.Target.from_default_triple().create_target_machine(llvm.get_host_cpu_name(), features, opt=3)
        module = llvm.parse_assembly(_SOURCE)
        module.verify()
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()

    def function(self, name: str, *types: Any) -> Callable[..., None]:
        """Return a function; the number of chunks is its last argument."""
        address = self._engine.get_function_address(name)
        called: Callable[..., None] = ctypes.CFUNCTYPE(None, *types, ctypes.c_int64)(address)
        return called


_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_STREAM_TYPES = (_I, _I, ctypes.c_int16)
_TYPES: dict[str, tuple[Any, ...]] = {
    "pack": (_P, _P),
    "stochastic": (_P, _P, *_STREAM_TYPES, _F, _P),
    "shorts": (*_STREAM_TYPES, _P),
    "fold": (_P, _P, _P, _P),
    "decode": (_P, _I, _P, _I, _P),
    "add_ramp": (*_STREAM_TYPES, _P, _P, _P),
    "add_steps": (*_STREAM_TYPES, _P, _I, _F, _P, _P),
    "lanes_abs": (_P, _P),
    "lanes_square": (_P, _P),
    "maximum": (_P, _P),
}


@cache
def _functions() -> dict[str, Callable[..., None]]:
    """Compile; once a process."""
    library = _Library()
    names = [*_TYPES, *(f"{name}_each" for name in ("stochastic", "fold", "decode", "add_ramp"))]
    functions = {name: library.function(name, *_TYPES[name.removesuffix("_each")]) for name in names}
    functions["keep"] = library  # type: ignore[assignment]
    return functions


def _stream(stream: Stream16, coordinate: int) -> tuple[int, int, int]:
    """Return a stream's arguments, from a coordinate of its block on."""
    first = stream.first + coordinate // 4
    return _signed((first * GAMMA + stream.key[0]) & ALL), _signed(stream.key[1]), stream.shift - ((stream.shift >> 15) << 16)


class CompiledKernels(Kernels):
    """See the module; every method is that of :class:`gcdl.compressors.kernels.reference.Kernels`."""

    def __init__(self, d: int) -> None:
        super().__init__(d)
        self._f = _functions()
        self._lanes = np.empty(LANES, dtype=np.float32)
        self._known: dict[int, tuple[IntVector, list[tuple[int, int, int]]]] = {}

    def _segments(self, edges: IntVector) -> list[tuple[int, int, int]]:
        """Cut a block's whole chunks into (start, stop, run), run -1 where several meet in a chunk."""
        known = self._known.get(id(edges))
        if known is not None and known[0] is edges:
            return known[1]
        size = int(edges[-1]) // _CHUNK * _CHUNK
        segments: list[tuple[int, int, int]] = []
        if edges.size - 1 > FEW:
            segments = [(0, size, -1)] if size else []
        else:
            done = 0
            for run in range(edges.size - 1):
                start, stop = -(-int(edges[run]) // _CHUNK) * _CHUNK, int(edges[run + 1]) // _CHUNK * _CHUNK
                if start < stop:
                    segments += [(done, start, -1)] * (done < start) + [(start, stop, run)]
                    done = stop
            segments += [(done, size, -1)] * (done < size)
        if len(self._known) > 4 * FEW:
            self._known.clear()
        self._known[id(edges)] = edges, segments
        return segments

    def pack(self, x: Vector, out: Buffer) -> None:
        """Write bit = (x >= 0)."""
        done = x.size // _CHUNK * _CHUNK
        self._f["pack"](_at(x), _at(out), done // _CHUNK)
        if done < x.size:
            super().pack(x[done:], out[done // 8 :])

    def stochastic(self, x: Vector, units: Vector, edges: IntVector, stream: Stream16, delta: float, out: Buffer) -> None:
        """Write bit = (x unit - delta > r)."""
        delta = float(np.float32(delta))
        for start, stop, run in self._segments(edges):
            name, value = _values("stochastic", units, edges, start, stop, run)
            self._f[name](
                _at(x, start), _at(value), *_stream(stream, start), delta, _at(out, start // 8), (stop - start) // _CHUNK
            )
        done = x.size // _CHUNK * _CHUNK
        if done < x.size:
            rest = Stream16(stream.key, stream.first + done // 4, stream.shift)
            super().stochastic(x[done:], units, _cut(edges, done, x.size), rest, delta, out[done // 8 :])

    def shorts(self, n: int, stream: Stream16) -> Shorts:
        """Return n uniform int16."""
        done = n // _CHUNK * _CHUNK
        r = self._random.view(np.int16)[:n]
        if done < n:
            # The reference writes to the start of the scratch: its part goes to its place before ours overwrites that.
            r[done:] = super().shorts(n - done, Stream16(stream.key, stream.first + done // 4, stream.shift))
        self._f["shorts"](*_stream(stream, 0), _at(r), done // _CHUNK)
        return r

    def sums_abs(self, x: Vector, edges: IntVector) -> Wide:
        """Return sum |x_j| of each run."""
        if edges.size - 1 > FEW:
            return super().sums_abs(x, edges)
        return self._lane_sums("lanes_abs", np.abs, x, edges)

    def _float_squares(self, x: Vector, edges: IntVector) -> Wide:
        if edges.size - 1 > FEW:
            return super()._float_squares(x, edges)
        return self._lane_sums("lanes_square", np.square, x, edges)

    def _lane_sums(self, name: str, plain: Callable[[Vector], Vector], x: Vector, edges: IntVector) -> Wide:
        found = np.empty(edges.size - 1)
        for run in range(found.size):
            part = x[edges[run] : edges[run + 1]]
            done = part.size // LANES * LANES
            found[run] = plain(part[done:]).sum(dtype=np.float64) if done < part.size else 0.0
            if done:
                self._lanes.fill(0.0)
                self._f[name](_at(part), _at(self._lanes), done // _CHUNK)
                found[run] += self._lanes.sum(dtype=np.float64)
        return found

    def maxima(self, x: Vector, edges: IntVector) -> Vector:
        """Return max |x_j| of each run."""
        if edges.size - 1 > FEW:
            return super().maxima(x, edges)
        found = np.zeros(edges.size - 1, dtype=np.float32)
        for run in range(found.size):
            part = x[edges[run] : edges[run + 1]]
            done = part.size // _CHUNK * _CHUNK
            self._lanes.fill(0.0)
            self._f["maximum"](_at(part), _at(self._lanes), done // _CHUNK)
            found[run] = self._lanes.max()
            if done < part.size:
                found[run] = max(found[run], np.abs(part[done:]).max())
        return found

    def fold(self, bits: Buffer, values: Vector, edges: IntVector, source: Vector, into: Vector) -> None:
        """Write source + value (+-1) to ``into``."""
        for start, stop, run in self._segments(edges):
            name, value = _values("fold", values, edges, start, stop, run)
            self._f[name](_at(bits, start // 8), _at(value), _at(source, start), _at(into, start), (stop - start) // _CHUNK)
        done = source.size // _CHUNK * _CHUNK
        if done < source.size:
            super().fold(bits[done // 8 :], values, _cut(edges, done, source.size), source[done:], into[done:])

    def decode(self, rows: Sequence[Buffer], values: NDArray[np.float32], edges: IntVector, into: Vector) -> None:
        """Overwrite ``into`` with sum_i values[i] (+-1)_i."""
        if edges.size - 1 > FEW or not rows:
            super().decode(rows, values, edges, into)
            return
        for start, stop, run in self._segments(edges):
            if run < 0:
                each = np.repeat(values, np.diff(_cut(edges, start, stop)), axis=1)
                name, value, stride = "decode_each", each, each.shape[1]
            else:
                name, value, stride = "decode", np.ascontiguousarray(values[:, run]), 1
            addresses = np.array([_at(row, start // 8) for row in rows], dtype=np.uintp)
            self._f[name](_at(addresses), len(rows), _at(value), stride, _at(into, start), (stop - start) // _CHUNK)
        done = into.size // _CHUNK * _CHUNK
        if done < into.size:
            super().decode([row[done // 8 :] for row in rows], values, _cut(edges, done, into.size), into[done:])

    def add_ramp(self, stream: Stream16, units: Vector, offsets: Vector, edges: IntVector, into: Vector) -> None:
        """Add (r unit) + offset to ``into``."""
        for start, stop, run in self._segments(edges):
            name, unit = _values("add_ramp", units, edges, start, stop, run)
            _, offset = _values("add_ramp", offsets, edges, start, stop, run)
            self._f[name](*_stream(stream, start), _at(unit), _at(offset), _at(into, start), (stop - start) // _CHUNK)
        done = into.size // _CHUNK * _CHUNK
        if done < into.size:
            rest = Stream16(stream.key, stream.first + done // 4, stream.shift)
            super().add_ramp(rest, units, offsets, _cut(edges, done, into.size), into[done:])

    def add_steps(
        self, stream: Stream16, wraps: Wraps, units: Vector, levels: NDArray[np.float32], edges: IntVector, into: Vector
    ) -> None:
        """Add (r unit) + levels[how many have wrapped at r] to ``into``."""
        if wraps.thresholds.size > _MANY_STEPS or edges.size - 1 > FEW:
            super().add_steps(stream, wraps, units, levels, edges, into)
            return
        done = into.size // _CHUNK * _CHUNK
        for start, stop, run in [*self._segments(edges), (done, into.size, -1)]:
            if run >= 0:
                arguments = _at(wraps.thresholds), wraps.thresholds.size, float(units[run]), _at(levels[run])
                self._f["add_steps"](*_stream(stream, start), *arguments, _at(into, start), (stop - start) // _CHUNK)
            elif start < stop:
                rest = Stream16(stream.key, stream.first + start // 4, stream.shift)
                super().add_steps(rest, wraps, units, levels, _cut(edges, start, stop), into[start:stop])


def _at(array: NDArray[Any], element: int = 0) -> int:
    """Return the address of an element of a contiguous array."""
    address: int = array.ctypes.data
    return address + element * array.itemsize


def _cut(edges: IntVector, start: int, stop: int) -> IntVector:
    return np.clip(edges, start, stop) - start


def _values(name: str, values: Vector, edges: IntVector, start: int, stop: int, run: int) -> tuple[str, Vector]:
    """Return the function for a segment, and the value it takes: one for all, or one for each coordinate."""
    if run >= 0:
        return name, values[run : run + 1]
    return f"{name}_each", np.repeat(values, np.diff(_cut(edges, start, stop)))
