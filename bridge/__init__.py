"""Where the method meets ComfyUI: turns its objects into tensors, and lets its samplers, VAEs and CLIPs do the work. No node lives here."""
