"""What commands ask Infisical and OpenRouter, by reading alone."""
