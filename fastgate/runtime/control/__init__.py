"""The control process: configuration, the API and pages, health checks, money, logs."""
