package metadata

import (
	"net/http"
	"os"
	"testing"
)

// Another user's process with a token bound to a third.
func TestSecondFactorOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make another user's socket")
	}
	r := start(t, grants{
		"of12345": {ID: "of12345", Profiles: []string{"dev"}, BoundUID: true, UID: 12345},
		"of54321": {ID: "of54321", Profiles: []string{"dev"}, BoundUID: true, UID: 54321},
		"of0":     {ID: "of0", Profiles: []string{"dev"}, BoundUID: true, UID: 0},
		"of65534": {ID: "of65534", Profiles: []string{"dev"}, BoundUID: true, UID: 65534},
	})
	for _, c := range []struct {
		uid   int
		token string
		want  int
	}{
		{12345, "of12345", http.StatusOK},
		{12345, "of54321", http.StatusForbidden},
		{12345, "of0", http.StatusForbidden},
		{0, "of12345", http.StatusOK}, // root could become that user
		{65534, "of65534", http.StatusForbidden},
		{65534, "of0", http.StatusForbidden},
	} {
		as(t, c.uid, func() {
			for _, addr := range []string{r.addr, r.addr6} {
				if addr == "" {
					continue
				}
				if a := dial(t, addr).do(line + "Host: localhost\nAuthorization: " + c.token + "\n\n"); a.status != c.want {
					t.Errorf("uid %d with %s at %s: %d, want %d", c.uid, c.token, addr, a.status, c.want)
				}
			}
		})
	}
}
