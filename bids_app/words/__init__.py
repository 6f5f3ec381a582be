"""The words of a call: options, their values, the files they come from, what describes them."""
