package check

import (
	"encoding/json"
	"net/http"

	subresourcesv1alpha1 "drayage.dev/apis/subresources/v1alpha1"
)

// ServeHTTP answers a NetworkCheck with a NetworkCheckReport. Who may ask is the server's affair.
func (c *Checker) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var asked subresourcesv1alpha1.NetworkCheck
	if err := json.NewDecoder(http.MaxBytesReader(w, request.Body, subresourcesv1alpha1.MaxCheckBytes)).Decode(&asked); err != nil {
		http.Error(w, "reading the question: "+err.Error(), http.StatusBadRequest)
		return
	}
	report, err := c.Check(request.Context(), asked)
	if err != nil {
		http.Error(w, "checking the network: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// Nobody is left to tell when the client is gone.
	_ = json.NewEncoder(w).Encode(report)
}
