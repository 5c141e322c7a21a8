"""What the machine gives: durable files, worker processes, stopping, faults, the log, streams, clocks."""
