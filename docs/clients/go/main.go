// Submits one transaction, and sends it again until the coordinator has answered.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	unanimov1 "github.com/unanimo-tx/unanimo/gen/go/unanimo/v1"
)

// giveUp returns 0 if the same call is to be sent again. Otherwise it does not help to send it again, and
// the exit code is 1 if the coordinator itself has said no, and 5 if the outcome is not known. It also returns
// whether a call may have had its effect so far, this one or an earlier one (open): then a no, which speaks of its
// own call alone, tells nothing of the outcome.
func giveUp(err error, open bool) (int, bool) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "unanimo" {
			open = open || info.Metadata["effect"] != "none"
			switch {
			case info.Metadata["retryable"] == "true":
				return 0, open
			case open && info.Reason != "GID_REUSED": // a gid of another transaction excludes every call
				return 5, open
			}
			return 1, open
		}
	}
	switch status.Code(err) {
	case codes.Unimplemented, codes.OutOfRange, codes.Unauthenticated, codes.PermissionDenied,
		codes.ResourceExhausted:
		return 5, true // not from the coordinator, and does not pass by itself: a person must look
	}
	return 0, true // not from the coordinator: nothing is known yet
}

// notKnown ends the program: the reply is none of the coordinator's, such as that of a proxy. A person must look.
func notKnown(reply *unanimov1.SubmitTransactionResponse) {
	fmt.Println("not known: the reply says nothing of the transaction:", reply)
	os.Exit(5)
}

// first returns the result of the transaction's one branch. Without one there is nothing to tell of it.
func first(result *unanimov1.TransactionResult) *unanimov1.BranchResult {
	if branches := result.GetBranches(); len(branches) > 0 {
		return branches[0]
	}
	return nil
}

// followed ends the program if a branch has ended against the decision, or cannot tell: a person must look.
func followed(heuristic unanimov1.Heuristic) {
	if heuristic != unanimov1.Heuristic_HEURISTIC_NONE {
		fmt.Println("and a branch has ended otherwise, or cannot tell:", heuristic)
		os.Exit(6)
	}
}

func main() {
	address, gid := os.Args[1], os.Args[2]
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	coordinator := unanimov1.NewCoordinatorServiceClient(connection)
	request := &unanimov1.SubmitTransactionRequest{
		Gid:  gid,
		Mode: unanimov1.Mode_MODE_TCC,
		Branches: []*unanimov1.BranchSpec{{
			BranchId: "lamps", Participant: "py-shop", Action: "reserve",
			Payload: &unanimov1.Payload{
				Data: []byte(`{"item": "lamp", "pieces": 2}`), MediaType: "application/json",
			},
		}},
		IncludeOutputs: true,
		// Only then it is known whether each participant has done as was decided.
		WaitFor: unanimov1.WaitFor_WAIT_FOR_ENDED,
	}
	open := false
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		response, err := coordinator.SubmitTransaction(ctx, request)
		cancel()
		exitCode := 0
		if err != nil {
			exitCode, open = giveUp(err, open)
		}
		result := response.GetResult()
		switch {
		case err == nil && result == nil:
			notKnown(response)
		case err == nil && result.Outcome == unanimov1.Outcome_OUTCOME_COMMITTED:
			fmt.Println("committed:", string(first(result).GetOutput().GetData()))
			followed(result.Heuristic)
			return
		case err == nil && result.Outcome == unanimov1.Outcome_OUTCOME_ABORTED:
			fmt.Println("aborted:", result.AbortCause, first(result).GetRefusal())
			followed(result.Heuristic)
			os.Exit(4)
		case err == nil:
			open = true // stored, and not decided yet
		case exitCode == 5 && status.Code(err) == codes.ResourceExhausted && request.IncludeOutputs:
			request.IncludeOutputs = false // the answer was too large for this client: once more, without outputs
			continue
		case exitCode != 0:
			log.Println(err)
			os.Exit(exitCode)
		}
		log.Println("not known yet:", err)
		time.Sleep(pause)
	}
}
