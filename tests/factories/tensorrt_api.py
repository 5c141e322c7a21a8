"""TensorRT's real Python API on a machine without TensorRT, and our source held against it.

The bindings are the real wheel; the three libraries that they load are stubs of nine empty functions, which is
enough to import them and to read every class, enum member and signature. `find_uses` walks the syntax tree of our
source and infers which expressions are TensorRT objects: from annotations (`trt.ICudaEngine`) and from what the
bindings' own signatures say that a method returns.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_STUBS = {
    "libnvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvonnxparser": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
    "libnvinfer_plugin": ("initLibNvInferPlugins",),
}

# Runs in a process of its own: two versions of one module cannot live together.
_DUMP = r"""
import importlib, inspect, json, re, sys

def returned(member):
    signature = (member.fget if isinstance(member, property) else member).__doc__ or ""
    found = re.search(r"-> ([^\n]+)", signature)
    return re.sub(r"[\w.]+\.|\w+::", "", found.group(1)) if found else ""

def describe(owner, classes, path):
    members = {}
    for name in dir(owner):
        member = inspect.getattr_static(owner, name)
        member = member if isinstance(member, property) else getattr(owner, name)
        if inspect.isclass(member) and not name.startswith("__"):
            inner = f"{path}.{name}" if path else name
            members[name] = {"kind": "class", "returns": inner}
            if inner not in classes and inner.count(".") < 2:
                classes[inner] = {}
                classes[inner] = describe(member, classes, inner)
        elif isinstance(member, property):
            members[name] = {"kind": "property", "returns": returned(member)}
        elif callable(member):
            members[name] = {"kind": "method", "returns": returned(member)}
        else:
            members[name] = {"kind": "value", "returns": type(member).__name__}
    return members

module = importlib.import_module(sys.argv[1])
classes = {}
top = describe(module, classes, "")
print(json.dumps({"version": module.__version__, "names": top, "classes": classes}))
"""


@dataclass(frozen=True)
class Api:
    """What a module offers: `members["" or class]` -> name -> (kind, type of what it returns or is)."""

    version: str
    members: dict[str, dict[str, tuple[str, str]]]

    def type_named(self, text: str) -> str:
        """Return the class that a signature means, such as "ITensor", "list[Dims]"; empty for any other type."""
        inner = text.removeprefix("list[").removeprefix("List[").removesuffix("]")
        # The parser's signatures name a C++ class that Python knows under another name.
        known = next((name for name in (inner, inner.removeprefix("I")) if name in self.members), "")
        return f"list[{known}]" if known and text != inner else known


def read_api(module: str, folder: Path, *, libraries: Path | None = None) -> Api:
    """Import `module` from `folder` in a process of its own and return what it offers."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    done = subprocess.run(
        [sys.executable, "-c", _DUMP, module], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    members = {"": told["names"]} | told["classes"]
    pairs = {
        owner: {name: (one["kind"], one["returns"]) for name, one in named.items()} for owner, named in members.items()
    }
    return Api(told["version"], pairs)


def compile_stub_libraries(folder: Path, major: int) -> Path:
    """Compile the libraries that the bindings of this major version load; return their folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make TensorRT's stub libraries with")
    for library, functions in _STUBS.items():
        source = folder / f"{library}.c"
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions))
        name = f"{library}.so.{major}"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)], check=True
        )
    return folder


@dataclass(frozen=True)
class Use:
    """One name of TensorRT in our source: `member` of class `owner` ("" is the module), and where it stands."""

    line: int
    end_column: int
    owner: str
    member: str
    exists: bool


@dataclass
class _Walker:
    """Follows one alias (`trt`) through one module's syntax tree."""

    api: Api
    alias: str
    uses: list[Use] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    returns: dict[str, str] = field(default_factory=dict)

    def collect(self, tree: ast.AST) -> None:
        """Learn the types that annotations and assignments give to functions and to attributes of self."""
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                self.returns[node.name] = self.annotated(node.returns)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
                self.attributes[node.target.attr] = self.annotated(node.annotation)

    def annotated(self, annotation: ast.expr) -> str:
        """Return the TensorRT type that an annotation names, "" for none."""
        if isinstance(annotation, ast.BinOp):
            return self.annotated(annotation.left) or self.annotated(annotation.right)
        kind = self.typed(annotation, {})
        return kind.removeprefix("class ") if kind.startswith("class ") else ""

    def walk(self, node: ast.AST, env: dict[str, str]) -> None:
        """Visit statements in order; `env` knows the types of local names."""
        env = self._enter(node, env)
        if isinstance(node, ast.ClassDef):
            self._check_overrides(node)
        if isinstance(node, ast.Attribute):
            self.typed(node, env, record=True)
        for child in ast.iter_child_nodes(node):
            self.walk(child, env)
        if isinstance(node, ast.Assign):
            self._assign(node.targets[0], node.value, env)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            env[node.target.id] = self.annotated(node.annotation) or (
                self.typed(node.value, env) if node.value is not None else ""
            )

    def _enter(self, node: ast.AST, env: dict[str, str]) -> dict[str, str]:
        """Return the names that are known inside a node: a function's arguments, what a loop binds."""
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            return env | {one.arg: self.annotated(one.annotation) if one.annotation else "" for one in arguments}
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp | ast.SetComp):
            return self._bound_by(node.generators, env)
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            env[node.target.id] = self._item(self.typed(node.iter, env))
        return env

    def typed(self, node: ast.expr, env: dict[str, str], *, record: bool = False) -> str:
        """Return what an expression is: "module", "class X", "method T", a type such as "ITensor", or "" (unknown)."""
        if isinstance(node, ast.Name):
            return "module" if node.id == self.alias else env.get(node.id, "")
        if isinstance(node, ast.Attribute):
            return self._member(node, env, record=record)
        if isinstance(node, ast.Call):
            return self._called(node.func, env)
        if isinstance(node, ast.ListComp):
            inner = self.typed(node.elt, self._bound_by(node.generators, env))
            return f"list[{inner}]" if inner else ""
        if isinstance(node, ast.List):
            kinds = {self._item(self.typed(item.value, env)) for item in node.elts if isinstance(item, ast.Starred)}
            return f"list[{kinds.pop()}]" if len(kinds) == 1 and "" not in kinds else ""
        return ""

    def _member(self, node: ast.Attribute, env: dict[str, str], *, record: bool) -> str:
        if isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr in self.attributes:
            return self.attributes[node.attr]
        known = self.typed(node.value, env)
        owner = "" if known == "module" else known.removeprefix("class ")
        if not known or owner not in self.api.members:
            if record and not known:
                self.unknown.append(node.attr)
            return ""
        kind, returns = self.api.members[owner].get(node.attr, ("", ""))
        if record:
            self.uses.append(Use(node.end_lineno or 0, node.end_col_offset or 0, owner, node.attr, bool(kind)))
        if kind == "class":
            return f"class {returns}"
        if kind == "method":
            return f"method {self.api.type_named(returns)}"
        # A member of an enum is of its class; any other value has no members that we would use.
        return self.api.type_named(returns)

    def _called(self, function: ast.expr, env: dict[str, str]) -> str:
        if isinstance(function, ast.Name | ast.Attribute):
            own = function.id if isinstance(function, ast.Name) else function.attr
            on_self = isinstance(function, ast.Name) or (
                isinstance(function.value, ast.Name) and function.value.id == "self"
            )
            if on_self and self.returns.get(own):
                return self.returns[own]
        kind = self.typed(function, env)
        return kind.removeprefix("class ") if kind.startswith("class ") else kind.removeprefix("method ").strip()

    def _bound_by(self, generators: list[ast.comprehension], env: dict[str, str]) -> dict[str, str]:
        env = dict(env)
        for generator in generators:
            if isinstance(generator.target, ast.Name):
                env[generator.target.id] = self._item(self.typed(generator.iter, env))
        return env

    def _assign(self, target: ast.expr, value: ast.expr, env: dict[str, str]) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=True):
                self._assign(one, its, env)
        elif isinstance(target, ast.Name):
            env[target.id] = self.typed(value, env)
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            self.attributes.setdefault(target.attr, self.typed(value, env))

    def _check_overrides(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            kind = self.typed(base, {})
            if not kind.startswith("class "):
                continue
            owner = kind.removeprefix("class ")
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    column = method.col_offset + len("def ") + len(method.name)
                    exists = method.name in self.api.members[owner]
                    self.uses.append(Use(method.lineno, column, owner, method.name, exists))

    @staticmethod
    def _item(kind: str) -> str:
        return kind.removeprefix("list[").removesuffix("]") if kind.startswith("list[") else ""


def find_uses(source: str, api: Api, *, alias: str = "trt") -> list[Use]:
    """Return every use of the API in a module's source, also of names that the API has not."""
    return _walked(source, api, alias).uses


def find_untyped(source: str, api: Api, *, alias: str = "trt") -> set[str]:
    """Return TensorRT's own method names that our source uses on something whose type is not known.

    Such a use would escape the contract; an annotation brings it back. Names that other libraries have, too
    (`name`, `shape`), tell nothing.
    """
    telling = {
        name
        for owner, members in api.members.items()
        for name, (kind, _) in members.items()
        if owner and kind in {"method", "property"} and "_" in name.strip("_") and not name.startswith("_")
    }
    return telling & set(_walked(source, api, alias).unknown)


def spoil(source: str, use: Use) -> str:
    """Return the source with this one name misspelt."""
    lines = source.splitlines(keepends=True)
    line = lines[use.line - 1].encode()
    lines[use.line - 1] = (line[: use.end_column] + b"_gone" + line[use.end_column :]).decode()
    return "".join(lines)


def modules_that_use(alias: str, root: Path) -> Iterator[Path]:
    """Yield our modules that import this alias, if only for their annotations."""
    for path in sorted(root.rglob("*.py")):
        imported = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import))
        if any(name.asname == alias for node in imported for name in node.names):
            yield path


def _walked(source: str, api: Api, alias: str) -> _Walker:
    walker = _Walker(api, alias)
    tree = ast.parse(source)
    walker.collect(tree)
    walker.walk(tree, {})
    # Attributes of self may be assigned below the method that uses them.
    again = _Walker(api, alias, attributes=walker.attributes, returns=walker.returns)
    again.walk(tree, {})
    return again
