"""Evaluates admission policies as an API server does: cel.py < {policy, params, requests}.

`requests` is a list of {operation, namespace, object, oldObject}. For each it prints {matches, failures}
of a ValidatingAdmissionPolicy, or {matches, patch} of a MutatingAdmissionPolicy. Selectors are the
caller's business.
"""

import json
import sys

import celpy
from celpy import celtypes


class Type(celtypes.MapType):
    """`Object`, `Object.spec`, …: called with fields it makes an object, which knows its type."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def __contains__(self, _):
        return True

    def __getitem__(self, name):
        return Type(self.path + [str(name)])

    def get(self, name, _=None):
        return self[name]

    def __call__(self, fields=None):
        made = Made(fields or {})
        made.path = self.path
        return made


class Made(celtypes.MapType):
    path: list


def check_types(value, path):
    """The API server refuses an object whose type is not that of its field."""
    if isinstance(value, Made):
        if value.path != path:
            raise SystemExit(f"{'.'.join(value.path)} is in the place of {'.'.join(path)}")
        for name, field in value.items():
            check_types(field, path + [str(name)])
    elif isinstance(value, celtypes.ListType):
        for item in value:
            check_types(item, path)


def plain(value):
    """As JSON. A truth value of CEL is a number in Python."""
    if isinstance(value, celtypes.BoolType):
        return bool(value)
    if isinstance(value, celtypes.MapType):
        return {str(name): plain(field) for name, field in value.items()}
    if isinstance(value, celtypes.ListType):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, celtypes.IntType) else str(value)


ENVIRONMENT = celpy.Environment()


def program(expression):
    return ENVIRONMENT.program(ENVIRONMENT.compile(expression))


def evaluate(spec, params, request):
    known = {
        "object": celpy.json_to_cel(request["object"]),
        "oldObject": celpy.json_to_cel(request.get("oldObject")),
        "request": celpy.json_to_cel({k: request[k] for k in ("operation", "namespace")}),
        "params": celpy.json_to_cel(params or {}),
        "Object": Type(["Object"]),
        "JSONPatch": Type(["JSONPatch"]),
    }
    for condition in spec.get("matchConditions", []):
        if not program(condition["expression"]).evaluate(known):
            return {"matches": False, "unmet": condition["name"]}
    variables = celtypes.MapType()
    known["variables"] = variables
    for variable in spec.get("variables", []):
        variables[celtypes.StringType(variable["name"])] = program(variable["expression"]).evaluate(known)
    if "mutations" in spec:
        operations = []
        for mutation in spec["mutations"]:
            operations.extend(program(mutation["jsonPatch"]["expression"]).evaluate(known))
        for operation in operations:
            place = [part for part in operation["path"].split("/")[1:] if part != "-"]
            check_types(operation["value"], ["Object", *place])
        return {"matches": True, "patch": [plain(operation) for operation in operations]}
    failures = []
    for validation in spec["validations"]:
        if not program(validation["expression"]).evaluate(known):
            said = validation.get("message")
            if "messageExpression" in validation:
                said = str(program(validation["messageExpression"]).evaluate(known))
            failures.append(said)
    return {"matches": True, "failures": failures}


def main():
    asked = json.load(sys.stdin)
    spec = asked["policy"]["spec"]
    json.dump([evaluate(spec, asked.get("params"), each) for each in asked["requests"]], sys.stdout)


main()
