//go:build booted

// Command standin is STS's stand-in for a booted machine: over plain HTTP at the address
// that is its first argument, and as AWS itself at 127.0.0.1:443, under the names that
// follow. The certificate of the authority that it made for them is printed to the file
// that is its second argument. It tells systemd when it listens.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run(address, authority string, names []string) error {
	fake := stsfake.New()
	fake.AddUser("dev", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
	for _, name := range []string{"app", "dev", "ci", "deploy"} {
		fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::" + stsfake.Account + ":role/" + name, Trust: []string{"*"}})
	}
	if _, err := fake.Start(address); err != nil {
		return err
	}
	pair, err := certificate(authority, names)
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:443", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	if socket := os.Getenv("NOTIFY_SOCKET"); socket != "" {
		c, err := net.Dial("unixgram", socket)
		if err != nil {
			return err
		}
		if _, err := c.Write([]byte("READY=1")); err != nil {
			return err
		}
	}
	return (&http.Server{Handler: fake, ReadHeaderTimeout: 5 * time.Second}).Serve(l)
}

// certificate makes an authority, whose certificate goes to the file, and one of it
// for the names.
func certificate(file string, names []string) (pair tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		return pair, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "STS"}, DNSNames: names, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	own, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
	if err != nil {
		return pair, err
	}
	err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), 0o644)
	return tls.Certificate{Certificate: [][]byte{own}, PrivateKey: key}, err
}
