// One end of TTRPC, made with containerd's own client and server: see ttrpc_peer.cc, which says how it is
// used and is the same with feather's.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/gogo/protobuf/types"
)

const (
	service = "bench.Echo"
	method  = "Echo"
)

func fail(what interface{}) {
	fmt.Fprintln(os.Stderr, "ttrpc_peer:", what)
	os.Exit(1)
}

func serve(path string) {
	server, err := ttrpc.NewServer()
	if err != nil {
		fail(err)
	}
	server.Register(service, map[string]ttrpc.Method{
		method: func(_ context.Context, unmarshal func(interface{}) error) (interface{}, error) {
			var request types.StringValue
			if err := unmarshal(&request); err != nil {
				return nil, err
			}
			return &request, nil
		},
	})
	listener, err := net.Listen("unix", path)
	if err != nil {
		fail(err)
	}
	go server.Serve(context.Background(), listener)
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

func call(path string, count, tasks int) {
	connection, err := net.Dial("unix", path)
	if err != nil {
		fail(err)
	}
	client := ttrpc.NewClient(connection)
	message := types.StringValue{Value: strings.Repeat("x", 100)}
	times := make([][]time.Duration, tasks)
	var group sync.WaitGroup
	start := time.Now()
	for task := 0; task < tasks; task++ {
		task := task
		group.Add(1)
		go func() {
			defer group.Done()
			for i := 0; i < count; i++ {
				begin := time.Now()
				var echo types.StringValue
				if err := client.Call(context.Background(), service, method, &message, &echo); err != nil {
					fail(err)
				}
				if echo.Value != message.Value {
					fail("no echo")
				}
				times[task] = append(times[task], time.Since(begin))
			}
		}()
	}
	group.Wait()
	seconds := time.Since(start).Seconds()
	var all []time.Duration
	for _, each := range times {
		all = append(all, each...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	fmt.Printf("%f %f\n", float64(len(all))/seconds, float64(all[len(all)/2].Nanoseconds())/1e3)
}

func main() {
	number := func(text string) int {
		value, err := strconv.Atoi(text)
		if err != nil || value < 1 {
			fail("not a count: " + text)
		}
		return value
	}
	switch arguments := os.Args[1:]; {
	case len(arguments) == 2 && arguments[0] == "serve":
		serve(arguments[1])
	case len(arguments) == 4 && arguments[0] == "call":
		call(arguments[1], number(arguments[2]), number(arguments[3]))
	default:
		fail("usage: ttrpc_peer serve SOCKET | call SOCKET COUNT TASKS")
	}
}
