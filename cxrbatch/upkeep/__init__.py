"""What looks after results and installations: status, repair, prune, reprint, inspection, bench, doctor."""
