"""A batch on several machines: Ray carries the calls, everything else is what one machine does, too."""
