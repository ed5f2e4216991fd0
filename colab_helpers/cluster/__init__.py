"""Run a batch on several machines: Ray transports the calls, everything else is as on one machine."""
