"""`python -m benchmarks.compare`: FastGate beside other proxies and a bare relay.

One session measures all of them on the same machine, in turns: every scenario runs several
rounds, every round visits every subject once (each round begins with another one), so what the
machine does meanwhile falls on all alike. Processes are pinned:

    core A   backend (tools/backend.c)
    core B   the proxy that is measured: its whole process tree
    core C   load generator (tools/load.c)
    core D   this program

with what is left sharing when there are fewer cores (`machine.Placement` says how, and the result
carries it). What is charged to a proxy is the processor time of its whole process tree in the
measured window, over the requests answered in it.

    machine    what it runs on, and where each part is pinned
    processes  starting, accounting (CPU, PSS) and ending process trees
    generator  running the load generator and reading its answer
    subjects   what is compared: configuration written, command, reload
               gateway, keyed: FastGate; nginx, envoy, peers: what is installed;
               built: what is built from source (Pingora, Caddy)
    scenarios  what is measured: a table
    session    the interleaved rounds; special: reloads, memory; paid; sidecar: a small gateway;
               flood: half handshakes
    encryption terms and certificates of TLS, and which libssl is used
    ratios     ratios by pairs of neighbouring visits
    schema     the result, `results/compare.json`; statistics of rounds
    verdict    the budgets, and whether this run keeps them
    report     `results/compare.md`; plot: `results/compare.png`
"""
