// SPDX-License-Identifier: GPL-2.0

// server PORT: an HTTP server that also runs a child for each hundredth request.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync/atomic"
)

func main() {
	var requests atomic.Int64
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1)%100 == 0 {
			_ = exec.Command("true").Run()
		}
		fmt.Fprintln(w, "hello")
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
	os.Exit(1)
}
