"""The configuration as typed values: the checked content of a document, without any behavior.

values, units, places   single values in the form that people write: durations, rates, addresses …
base                    the base of all structs: strict, frozen, keyword-only
policy, upstream, route, party, operation      the resources
gateway                 the whole document; re-exports the others
codec                   plain data ↔ structs; JSON Schema; digest
short                   the short forms, as a table
check                   conditions between resources: names, references
resolve                 the effective rules of a route, service or plan, including policies
"""
