// Tokens of Go's standard library: see make.py, which runs this.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"os"
	"runtime"
)

type object = map[string]any

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	public, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	rs := must(rsa.GenerateKey(rand.Reader, 2048))
	sum := func(message string) []byte { hash := sha256.Sum256([]byte(message)); return hash[:] }
	sign := map[string]func(string) []byte{
		"EdDSA": func(message string) []byte { return ed25519.Sign(ed, []byte(message)) },
		"ES256": func(message string) []byte {
			r, s, err := ecdsa.Sign(rand.Reader, ec, sum(message))
			if err != nil {
				panic(err)
			}
			return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		},
		"ES256 in DER": func(message string) []byte {
			return must(ecdsa.SignASN1(rand.Reader, ec, sum(message)))
		},
		"RS256": func(message string) []byte {
			return must(rsa.SignPKCS1v15(rand.Reader, rs, crypto.SHA256, sum(message)))
		},
		"PS256": func(message string) []byte {
			options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			return must(rsa.SignPSS(rand.Reader, rs, crypto.SHA256, sum(message), options))
		},
	}
	claims := string(must(json.Marshal(object{
		"iss": "https://idp.example/", "aud": "orders", "sub": "u", "org": "acme", "exp": 4102444800,
	})))
	var tokens []object
	add := func(name, result, signer, header, claims string) {
		message := b64([]byte(header)) + "." + b64([]byte(claims))
		token := message + "." + b64(sign[signer](message))
		tokens = append(tokens, object{"name": name, "result": result, "token": token})
	}
	add("good EdDSA", "accepted", "EdDSA", `{"alg":"EdDSA","kid":"ed"}`, claims)
	add("good ES256", "accepted", "ES256", `{"alg":"ES256","kid":"ec"}`, claims)
	add("good RS256", "accepted", "RS256", `{"alg":"RS256","kid":"rs"}`, claims)
	add("good PS256 by the same key", "accepted", "PS256", `{"alg":"PS256","kid":"rs"}`, claims)
	add("without kid, one fits", "accepted", "EdDSA", `{"alg":"EdDSA"}`, claims)
	add("signature in DER", "signature", "ES256 in DER", `{"alg":"ES256","kid":"ec"}`, claims)
	add("PKCS 1 as PSS", "signature", "RS256", `{"alg":"PS256","kid":"rs"}`, claims)
	add("two kids", "malformed", "EdDSA", `{"alg":"EdDSA","kid":"x","kid":"ed"}`, claims)
	add("two exps", "malformed", "EdDSA", `{"alg":"EdDSA","kid":"ed"}`, `{"exp":1,`+claims[1:])
	add("b64", "critical", "EdDSA", `{"alg":"EdDSA","kid":"ed","b64":false,"crit":["b64"]}`, claims)
	jwks := object{"keys": []object{
		{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(public)},
		{"kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(ec.X.FillBytes(make([]byte, 32))),
			"y": b64(ec.Y.FillBytes(make([]byte, 32)))},
		{"kty": "RSA", "kid": "rs", "n": b64(rs.N.Bytes()), "e": b64(big.NewInt(int64(rs.E)).Bytes())},
	}}
	made := object{"made_by": "Go " + runtime.Version(), "jwks": jwks, "tokens": tokens}
	must(0, json.NewEncoder(os.Stdout).Encode(made))
}
