"""What Keyledger is about, without files, web or clock: keys, money, catalogue, licenses, purchases and their fold."""
