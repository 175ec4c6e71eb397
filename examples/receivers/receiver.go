// Receives fired jobs: verifies the signature and the fence. See README.md.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const toleranceS = 300

var (
	key    []byte
	lock   sync.Mutex
	fences = map[string]uint64{} // The greatest fence of each job.
)

func isSigned(headers http.Header, body []byte) bool {
	timestamp := headers.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if off := time.Now().Unix() - seconds; err != nil || off > toleranceS || off < -toleranceS {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", headers.Get("webhook-id"), timestamp)
	mac.Write(body)
	expected := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	// One of several, while a secret is replaced.
	for _, given := range strings.Fields(headers.Get("webhook-signature")) {
		if hmac.Equal([]byte(given), expected) {
			return true
		}
	}
	return false
}

func isLate(job string, fence uint64) bool {
	lock.Lock()
	defer lock.Unlock()
	if fence < fences[job] {
		return true
	}
	fences[job] = fence
	return false
}

func receive(response http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil || !isSigned(request.Header, body) {
		response.WriteHeader(http.StatusUnauthorized)
		return
	}
	fence, err := strconv.ParseUint(request.Header.Get("x-scheduler-fence"), 10, 64)
	if err != nil || isLate(request.Header.Get("x-scheduler-job-id"), fence) {
		response.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	fmt.Println("done", request.Header.Get("x-scheduler-request-id"), fence)
	response.WriteHeader(http.StatusNoContent)
}

func main() {
	var err error
	secret := strings.TrimPrefix(os.Getenv("WEBHOOK_SECRET"), "whsec_")
	if key, err = base64.StdEncoding.DecodeString(secret); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, http.HandlerFunc(receive)))
}
