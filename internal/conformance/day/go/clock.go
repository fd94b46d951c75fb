package main

import "errors"

// setClock moves the program's clock. The test builds with another file in the
// place of this one, and with a Go whose clock can be moved.
func setClock(int64) error { return errors.New("this was built with a clock that cannot be moved") }
