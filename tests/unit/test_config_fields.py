"""Every field of a config is read somewhere: an option that nothing reads is a silent bug.

The sources are parsed. A field counts as read where its name is taken from an expression whose
type is its class: a parameter annotated so, `self.config`, a local name for either, a section of
a bigger config. A same-named attribute of something else does not count, nor does a check in
`__post_init__`.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "recjax"
SOURCES = {str(p.relative_to(PACKAGE)): p.read_text() for p in sorted(PACKAGE.rglob("*.py"))}
SUFFIXES = ("Config", "Options")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Reads:
    """The fields of config classes, and those that any of the sources read."""

    def __init__(self, sources):
        trees = {path: ast.parse(text) for path, text in sources.items()}
        classes = [
            (path, node)
            for path, tree in trees.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        ]
        self.known = [f"{path}:{node.name}" for path, node in classes]
        self.fields, self.bases, self.types, self.seen = {}, {}, {}, set()
        self.constants = {path: self._constants(tree) for path, tree in trees.items()}
        for path, node in classes:
            name = f"{path}:{node.name}"
            self.bases[name] = [self._named(base, path) for base in node.bases]
            fields = [s for s in node.body if isinstance(s, ast.AnnAssign)]
            for field in fields:
                self.types[name, field.target.id] = self._named(field.annotation, path)
            for method in node.body:
                decorators = getattr(method, "decorator_list", ())
                kinds = {getattr(d, "attr", getattr(d, "id", None)) for d in decorators}
                if kinds & {"property", "cached_property"}:
                    self.types[name, method.name] = self._named(method.returns, path)
            if node.name.endswith(SUFFIXES):
                self.fields[name] = [field.target.id for field in fields]
        # Twice: the first pass finds the types of `self.x = ...`, which may stand after its use.
        for _ in range(2):
            self.seen = set()
            for path, tree in trees.items():
                self._walk(tree, path, None, {})

    def unread(self):
        return sorted(
            f"{name}.{field}"
            for name, fields in self.fields.items()
            for field in fields
            if not self._seen(name, field)
        )

    def _constants(self, tree):
        """A module's own tuples, by name."""
        out = {}
        for node in tree.body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            if isinstance(getattr(node, "value", None), ast.Tuple):
                out |= {target.id: node.value for target in targets if isinstance(target, ast.Name)}
        return out

    def _strings(self, node, path):
        """The strings of a tuple that is written here or is a constant of the module."""
        node = self.constants[path].get(getattr(node, "id", None), node)
        return [e.value for e in getattr(node, "elts", ()) if isinstance(e, ast.Constant)]

    def _seen(self, cls, field):
        """Whether the field is read, of the class or of the base whose default it changes."""
        while cls:
            if (cls, field) in self.seen:
                return True
            cls = next(iter(self.bases.get(cls, ())), None)
        return False

    def _named(self, annotation, path):
        """The class that an annotation names: that of the module which it names, the module's own,
        else the only one of that name."""
        last = getattr(annotation, "attr", getattr(annotation, "id", None))
        named = [known for known in self.known if known.rpartition(":")[2] == last]
        module = getattr(getattr(annotation, "value", None), "id", None)
        there = [known for known in named if Path(known.rpartition(":")[0]).stem == module]
        own = there or [known for known in named if known == f"{path}:{last}"]
        return own[0] if own else named[0] if len(named) == 1 else None

    def _attribute(self, cls, name):
        """The class of `(a cls).name`."""
        while cls:
            if (cls, name) in self.types:
                return self.types[cls, name]
            cls = next(iter(self.bases.get(cls, ())), None)
        return None

    def _type(self, node, path, names):
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(self._type(node.value, path, names), node.attr)
        if isinstance(node, ast.Call):  # Config(...), build(Config, ...)
            called = self._named(node.func, path)
            if called is None and getattr(node.func, "id", None) == "build" and node.args:
                called = self._named(node.args[0], path)
            return called
        return None

    def _types(self, node, path, names):
        """As `_type`; `self.config` of a base class may be any of its subclasses' configs."""
        found = self._type(node, path, names)
        if found or not isinstance(node, ast.Attribute):
            return [found]
        owner = self._type(node.value, path, names)
        heirs = [cls for cls, bases in self.bases.items() if owner and owner in bases]
        return [self.types.get((cls, node.attr)) for cls in heirs]

    def _read(self, cls, field):
        while cls:
            self.seen.add((cls, field))
            cls = next(iter(self.bases.get(cls, ())), None)

    def _walk(self, node, path, cls, names, loops=()):
        """Reads below a node; `names`: local name -> class; `loops`: name -> strings it takes."""
        loops = dict(loops)
        if isinstance(node, ast.ClassDef):
            cls, names = f"{path}:{node.name}", dict(names)
        elif isinstance(node, FUNCTIONS):
            if getattr(node, "name", "") == "__post_init__":
                return
            names = self._parameters(node, path, cls, names)
        elif isinstance(node, (ast.For, *COMPREHENSIONS)):
            for loop in getattr(node, "generators", [node]):
                loops[getattr(loop.target, "id", None)] = self._strings(loop.iter, path)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            for owner in self._types(node.value, path, names):
                self._read(owner, node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "getattr":
            where, what = node.args[:2]
            for field in loops.get(getattr(what, "id", None), ()):
                self._read(self._type(where, path, names), field)
        for child in ast.iter_child_nodes(node):
            self._walk(child, path, cls, names, loops)
        if isinstance(node, ast.Assign):
            self._bind(node, path, names)

    def _parameters(self, node, path, cls, names):
        names, arguments = dict(names), node.args
        for place, arg in enumerate(arguments.posonlyargs + arguments.args + arguments.kwonlyargs):
            if arg.annotation is not None:
                names[arg.arg] = self._named(arg.annotation, path)
            elif place == 0 and arg.arg == "self":
                names["self"] = cls
            elif names.get(arg.arg) is None and arg.arg in ("config", "options"):
                own = [known for known in self.fields if known.rpartition(":")[0] == path]
                names[arg.arg] = own[0] if len(own) == 1 else None
        return names

    def _bind(self, node, path, names):
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                found = self._type(value, path, names)
                if isinstance(name, ast.Name):
                    names[name.id] = found
                elif isinstance(name, ast.Attribute) and found:
                    owner = self._type(name.value, path, names)
                    self.types[owner, name.attr] = found


def test_every_field_is_read():
    assert Reads(SOURCES).unread() == []


# A config, the two usual ways of keeping one, and a class that has a field of the same name.
EXAMPLE = """
import dataclasses
NAMES = ("a", "used")
@dataclasses.dataclass
class Config:
    used: int = 1
    def __post_init__(self):
        if self.used < 0 or self.checked < 0:
            raise ValueError
@dataclasses.dataclass
class OtherConfig:
    used: int = 1
    same: int = 2
@dataclasses.dataclass
class HeirConfig(Config):
    used: int = 3
class Model:
    def __init__(self, config: Config, other: OtherConfig):
        self.config, self.other = config, other
    @property
    def mine(self) -> Config:
        return self.config
    @functools.cached_property
    def heir(self) -> HeirConfig:
        return self.config
    def run(self):
        config = self.config
        READ
        return config.used + self.other.same + self.other.used
"""


@pytest.mark.parametrize(
    ("field", "read", "found"),
    [
        ("dead", "pass", ["m.py:Config.dead"]),
        ("checked", "pass", ["m.py:Config.checked"]),  # in __post_init__ only
        ("same", "pass", ["m.py:Config.same"]),  # read of OtherConfig only
        ("set_only", "config.set_only = 3", ["m.py:Config.set_only"]),
        ("a", "for name in ('b',): getattr(config, name)", ["m.py:Config.a"]),
        ("a", "{k: getattr(config, k) for k in OTHERS}", ["m.py:Config.a"]),
        ("a", "print(getattr(world, k) for k in NAMES)", ["m.py:Config.a"]),
        ("a", "print(world.a, a)", ["m.py:Config.a"]),
        ("a", "for name in ('a',): getattr(config, name)", []),
        ("a", "for name in NAMES: getattr(config, name)", []),
        ("a", "{k: getattr(config, k) for k in NAMES}", []),
        ("a", "print(getattr(config, k) for _ in x for k in ('a', 'b'))", []),
        ("a", "print(self.config.a)", []),
        ("a", "print(lambda: config.a)", []),
        ("a", "print(self.mine.a)", []),
        ("a", "print(self.heir.a)", []),
    ],
)
def test_the_rule_sees_what_is_not_read(field, read, found):
    source = EXAMPLE.replace("used: int = 1", f"used: int = 1\n    {field}: int = 1", 1)
    assert Reads({"m.py": source.replace("READ", read)}).unread() == found


def test_the_rule_sees_a_field_added_to_any_config():
    changed, names = dict(SOURCES), []
    for path, source in SOURCES.items():
        tree = ast.parse(source)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name.endswith(SUFFIXES):
                node.body.append(ast.parse("no_such_field: int = 0").body[0])
                names.append(f"{path}:{node.name}.no_such_field")
        changed[path] = ast.unparse(tree)
    assert len(names) > 80
    assert Reads(changed).unread() == sorted(names)
