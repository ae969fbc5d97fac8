"""One file per question; each ends in a public function."""
