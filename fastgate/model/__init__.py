"""The configuration as typed values: what a document says, checked, and nothing that runs.

values, units, places   single values as people write them: durations, rates, addresses …
base                    what all structs share: strict, frozen, keyword-only
policy, upstream, route, party, operation      the resources
gateway                 the whole document; re-exports the others
codec                   plain data ↔ structs; JSON Schema; digest
short                   the short forms, as a table
check                   what holds between resources: names, references
resolve                 what a route, service or plan comes to once policies are mixed in
"""
