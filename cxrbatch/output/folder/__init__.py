"""An output folder as a whole: opened, held, known again, and set right after a kill. Start at `opening`."""
