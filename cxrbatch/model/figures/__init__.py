"""What scores and truths come to: figures with intervals, operating points, groups, boxes. Start at `figures`."""
