"""What a notebook exports, read from its source without running it."""

import ast
import re
from dataclasses import dataclass, field

SOURCE = re.compile(r"^\s*Source:\s*(.+?)\s*$", re.M)
PAPER_KEY = re.compile(r"^([A-Za-z]+\d{4}\w*)[,;]?\s*(.*)$")
LIBRARY = re.compile(r"^(torch|numpy|matplotlib|PIL|safetensors)(\.\w+)+$")


@dataclass
class Symbol:
    """A public name of the package: what it is, where it is defined, where it comes from."""

    name: str
    module: str
    kind: str
    signature: str
    docstring: str
    docname: str
    bases: tuple[str, ...] = ()
    methods: list["Symbol"] = field(default_factory=list)

    @property
    def full(self) -> str:
        """Its name with its module."""
        return f"{self.module}.{self.name}"

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        paragraph = " ".join(self.docstring.split("\n\n")[0].split())
        match = re.match(r".*?\.(?=\s|$)", paragraph)
        return match[0] if match else paragraph

    @property
    def sources(self) -> list[str]:
        """The `Source:` lines of its docstring."""
        return SOURCE.findall(self.docstring)

    def cited(self) -> list[tuple[str, str]]:
        """The papers among its sources: key, and place in the paper."""
        return [(m[1], m[2]) for source in self.sources if (m := PAPER_KEY.match(source))]


def _arguments(args: ast.arguments, method: bool) -> list[str]:
    """Each argument of a signature as source text; `self` left out."""
    text = []
    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    for i, (arg, default) in enumerate(zip(plain, defaults, strict=True)):
        if not (method and i == 0):
            text.append(_argument(arg, default))
        if args.posonlyargs and i == len(args.posonlyargs) - 1:
            text.append("/")
    if args.vararg:
        text.append("*" + ast.unparse(args.vararg))
    elif args.kwonlyargs:
        text.append("*")
    text += [
        _argument(arg, default)
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    return text + (["**" + ast.unparse(args.kwarg)] if args.kwarg else [])


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return ast.unparse(arg)
    return (
        f"{ast.unparse(arg)} = {ast.unparse(default)}"
        if arg.annotation
        else f"{arg.arg}={ast.unparse(default)}"
    )


def _call(head: str, arguments: list[str], returns: ast.expr | None = None) -> str:
    tail = f" -> {ast.unparse(returns)}" if returns else ""
    line = f"{head}({', '.join(arguments)}){tail}"
    if len(line) <= 76:
        return line
    return f"{head}(\n" + "".join(f"    {a},\n" for a in arguments) + f"){tail}"


def _decorators(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    return {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}


def _members(node: ast.ClassDef, private: dict[str, ast.ClassDef]) -> dict[str, ast.FunctionDef]:
    """The methods of a class, those of its private bases included.

    A mixin is how it is made, not what it is.
    """
    found = {}
    for base in node.bases:
        if (name := ast.unparse(base)) in private:
            found |= _members(private[name], private)
    return found | {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}


def _class(
    node: ast.ClassDef, module: str, docname: str, private: dict[str, ast.ClassDef]
) -> Symbol:
    members = _members(node, private)
    bases = tuple(name for b in node.bases if (name := ast.unparse(b)) not in private)
    if "__init__" in members:
        arguments = _arguments(members["__init__"].args, method=True)
    elif "dataclass" in _decorators(node):
        arguments = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]
    else:  # it is called as the class it extends
        arguments, bases = list(bases), ()
    signature = _call(f"class {node.name}", arguments).removesuffix("()")
    symbol = Symbol(
        node.name, module, "class", signature, ast.get_docstring(node) or "", docname, bases
    )
    for name, method in members.items():
        docstring = ast.get_docstring(method) or ""
        if name != "__init__" and (
            not name.startswith("_") or (name.startswith("__") and docstring)
        ):
            symbol.methods.append(_function(method, module, docname, owner=node.name))
    return symbol


def _function(node: ast.FunctionDef, module: str, docname: str, owner: str = "") -> Symbol:
    marks = _decorators(node)
    if owner and "property" in marks:
        returns = f": {ast.unparse(node.returns)}" if node.returns else ""
        kind, signature = "property", f"{node.name}{returns}"
    else:
        kind = "method" if owner else "function"
        head = node.name if owner else f"def {node.name}"
        signature = _call(
            head,
            _arguments(node.args, method=bool(owner) and "staticmethod" not in marks),
            node.returns,
        )
    return Symbol(
        f"{owner}.{node.name}" if owner else node.name,
        module,
        kind,
        signature,
        ast.get_docstring(node) or "",
        docname,
    )


def exported(
    source: str, module: str, docname: str, private: dict[str, ast.ClassDef]
) -> list[Symbol]:
    """The public names that the code of one exported cell defines.

    `private` holds the private classes of the module's cells so far; those of this cell are added.
    """
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found.append(_function(node, module, docname))
        elif isinstance(node, ast.ClassDef):
            if node.name.startswith("_"):
                private[node.name] = node
            else:
                found.append(_class(node, module, docname, private))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [t.id for t in targets if isinstance(t, ast.Name)]
            note = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
            found += [Symbol(n, module, "data", n + note, "", docname) for n in names]
    return [s for s in found if not s.name.startswith("_")]
