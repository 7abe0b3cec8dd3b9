"""Why a request was refused, or would be: the facts, one check for each rule, and the fix."""
