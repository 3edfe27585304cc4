#!/usr/bin/env python3
"""Checks custom resources against the types that the project kube-custom-resources-rs generates from the
operators' schemas.

    custom_resources.py TYPES... -- MANIFESTS...

TYPES are Rust files: each has a struct for every object of a schema, which is read here and not compiled.
It finds a field that there is not, one that is missing, and a value of another type or beside the permitted
words. It prints what is wrong, and exits with 1.
"""

import pathlib
import re
import sys

from ruamel.yaml import YAML

INTEGERS = {"i32", "i64", "u32", "u64"}


class Types:
    def __init__(self, source):
        [(self.group, self.version, self.kind)] = re.findall(
            r'#\[kube\(group = "([^"]+)", version = "([^"]+)", kind = "([^"]+)"', source
        )
        self.bodies = {
            name: (form, body)
            for form, name, body in re.findall(r"^pub (struct|enum) (\w+) \{\n(.*?)^\}", source, re.M | re.S)
        }

    def members(self, name):
        """Each field or variant of a type as it is written in YAML, with the type of a field."""
        renamed = None
        for line in self.bodies[name][1].splitlines():
            line = line.strip()
            if line.startswith("#["):
                rename = re.search(r'rename = "([^"]+)"', line)
                renamed = rename[1] if rename else renamed
            elif member := re.fullmatch(r"(?:pub )?(?:r#)?(\w+)(?:: (.+))?,", line):
                yield renamed or member[1], member[2]
                renamed = None

    def problems(self, value, kind, path):
        if inner := re.fullmatch(r"Option<(.+)>", kind):
            yield from self.problems(value, inner[1], path)
        elif inner := re.fullmatch(r"Vec<(.+)>", kind):
            if not isinstance(value, list):
                yield f"{path} is no list"
                return
            for index, item in enumerate(value):
                yield from self.problems(item, inner[1], f"{path}[{index}]")
        elif inner := re.fullmatch(r"BTreeMap<String, (.+)>", kind):
            if not isinstance(value, dict):
                yield f"{path} is no object"
                return
            for key, item in value.items():
                yield from self.problems(item, inner[1], f"{path}.{key}")
        elif kind in self.bodies:
            yield from self.problems_of_own(value, kind, path)
        elif kind in INTEGERS | {"String", "bool", "IntOrString", "f64"}:
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            fits = {
                "String": isinstance(value, str),
                "bool": isinstance(value, bool),
                "IntOrString": is_integer or isinstance(value, str),
                "f64": is_integer or isinstance(value, float),
            }.get(kind, is_integer)
            if not fits:
                yield f"{path} is {value!r}, not a {kind}"
        else:
            yield f"{path}: the type {kind} is not understood"

    def problems_of_own(self, value, kind, path):
        form, members = self.bodies[kind][0], dict(self.members(kind))
        if form == "enum":
            if value not in members:
                yield f"{path} is {value!r}, not one of {sorted(members)}"
        elif not isinstance(value, dict):
            yield f"{path} is no object"
        else:
            for key in members.keys() | value.keys():
                if key not in members:
                    yield f"there is no {path}.{key}"
                elif key in value:
                    yield from self.problems(value[key], members[key], f"{path}.{key}")
                elif not members[key].startswith("Option<"):
                    yield f"{path}.{key} is missing"


def main():
    split = sys.argv.index("--")
    types = [Types(pathlib.Path(path).read_text()) for path in sys.argv[1:split]]
    known = {(f"{each.group}/{each.version}", each.kind): each for each in types}
    problems = []
    for path in sys.argv[split + 1 :]:
        for resource in YAML(typ="safe").load_all(pathlib.Path(path).read_text()):
            form = known.get((resource["apiVersion"], resource["kind"]))
            if form is None:
                problems.append(f"{path}: no types of {resource['kind']} {resource['apiVersion']}")
                continue
            others = sorted(resource.keys() - {"apiVersion", "kind", "metadata", "spec"})
            problems += [f"{path}: there is no {other}" for other in others]
            found = form.problems(resource["spec"], f"{form.kind}Spec", "spec")
            problems += [f"{path}: {problem}" for problem in found]
    sys.exit("\n".join(problems) or None)


main()
