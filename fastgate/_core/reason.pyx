"""The reasons as a Python enum (`fastgate._core.reason.Reason`); see reason.pxd."""
