// Parses LogQL with Loki's own parser: a JSON list of queries in, a JSON list of errors out, "" for none.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/grafana/loki/v3/pkg/logql/syntax"
)

func main() {
	var queries []string
	if err := json.NewDecoder(os.Stdin).Decode(&queries); err != nil {
		log.Fatal(err)
	}
	errors := make([]string, len(queries))
	for number, query := range queries {
		if _, err := syntax.ParseExpr(query); err != nil {
			errors[number] = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(errors); err != nil {
		log.Fatal(err)
	}
}
