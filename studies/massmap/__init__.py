"""Mass maps: convergence behind a mask and noise, by Wiener's filter and by a learned prior."""
